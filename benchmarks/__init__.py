"""Measurements of speed, memory and precision; the tests assert only that they count and divide rightly."""
