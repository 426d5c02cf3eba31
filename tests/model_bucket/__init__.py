"""Modules kept in a bucket: pulled once, named by their hashes, read by runs and never written by them."""
