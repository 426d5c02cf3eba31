"""The test server as the real clients see it: gcsfs, google-cloud-storage and Beam's file systems."""
