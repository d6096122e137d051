"""What tests share: servers, specimens, callers, small models. Imported by its full name."""
