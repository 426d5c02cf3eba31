"""Measurements of speed and memory; the tests assert only their causes."""
