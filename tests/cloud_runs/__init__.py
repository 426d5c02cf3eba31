"""Whole runs from bucket to bucket, on the test server of Cloud Storage."""
