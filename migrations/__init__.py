"""Alembic's scripts, which are part of the wheel; `service.db.migrate` runs them from code."""
