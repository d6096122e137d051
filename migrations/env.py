"""Alembic's environment: it uses only the connection that `service.db.migrate` passes."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.db.access import tables as access_tables  # noqa: F401  # registers its tables with the metadata
from service.db.results import tables as result_tables  # noqa: F401  # as above
from service.db.tables import Table


def run() -> None:
    """Run the migrations on the connection of `service.db.migrate`.

    Raises:
        RuntimeError: Alembic was called without a connection, so the database is unknown.
    """
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise RuntimeError("migrations are run by `gradinspect migrate` (service.db.migrate), which names the database")
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        # SQLite cannot change a column in place, so Alembic copies the table.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    # The transaction belongs to the caller, so either all steps of an upgrade happen or none.
    context.run_migrations()


run()
