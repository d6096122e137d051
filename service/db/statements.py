"""Two statements that all modules here use: a counted change, and an insert that skips existing rows."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import CursorResult, Delete, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.db.tables import Table


def change(session: Session, statement: Update | Delete) -> int:
    """Run an UPDATE or DELETE; returns how many rows it met. Objects that the session has read stay as they were."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount  # Any: no columns come back


def insert_unless_present(session: Session, table: type[Table], **values: object) -> bool:
    """Add a row; False, and nothing changed, when a row with its key exists.

    On PostgreSQL it waits for a transaction that is about to add or delete the same key.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    return session.execute(statement.returning(table.tenant_id)).first() is not None
