"""The scripts and queries of examples/."""
