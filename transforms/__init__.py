"""The steps of the pipeline, as plain functions and as Beam transforms."""
