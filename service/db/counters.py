"""Counts of events that leave no row, for operators; all processes add to the same counters."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.db import DEFAULT_TENANT
from service.db.tables import CounterRecord

# Operators count over all tenants; the column is there because every table has it.
_EVERYBODY = DEFAULT_TENANT


def add(session: Session, name: str, amount: float) -> None:
    """Raise a counter; nothing is written for an amount of 0."""
    if amount == 0:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(CounterRecord).values(name=name, tenant_id=_EVERYBODY, value=float(amount))
    session.execute(
        row.on_conflict_do_update(
            index_elements=["name", "tenant_id"], set_={"value": CounterRecord.value + row.excluded.value}
        )
    )


def read(session: Session) -> dict[str, float]:
    """Return every counter above 0."""
    found = session.execute(select(CounterRecord.name, CounterRecord.value))
    return {row.name: row.value for row in found}
