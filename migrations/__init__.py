"""Alembic's scripts, which ride in the wheel; `service.db.migrate` runs them from code."""
