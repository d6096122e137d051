"""Code shared by tests: servers, specimens, callers, small models. Imported by its full name."""
