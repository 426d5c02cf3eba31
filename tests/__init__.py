"""One test file a module, named after it."""
