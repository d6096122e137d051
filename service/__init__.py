"""The service: HTTP API, pages, database, store and lifecycle of inspections. Never imports torch."""
