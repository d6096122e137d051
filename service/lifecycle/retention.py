"""Removal of what is past its retention or was left by killed processes: rows and files together."""

from __future__ import annotations

from dataclasses import dataclass

from service.db import idempotency, retention, workers
from service.db.engine import Database
from service.lifecycle import artifacts
from service.store.storage import Store

GRACE_SECONDS = 3600  # chosen: longer than any download of a report
ORPHAN_SECONDS = 3600  # chosen: longer than any transaction that follows a report's file


@dataclass(frozen=True)
class Cleaned:
    """Numbers of removed rows."""

    marked: int
    inspections: int
    models: int
    idempotency_keys: int


def clean_rows(
    database: Database, store: Store, *, kept_days: float | None, grace_seconds: float = GRACE_SECONDS
) -> Cleaned:
    """Hide inspections past their retention and remove those hidden long enough, a bounded number in one call.

    Args:
        database: holds the rows.
        store: holds the reports.
        kept_days: retention of inspections; None keeps them for ever.
        grace_seconds: time between hiding and removing.
    """
    with database.write() as session:
        marked = 0 if kept_days is None else retention.mark(session, kept_days=kept_days)
        keys = idempotency.forget_expired(session)
        workers.forget_lost(session)
    with database.read() as session:
        due = retention.marked(session, grace_seconds=grace_seconds)
    # Files first: a row without a file is found by the next round, a file without a row only by the sweep.
    for item in due:
        if item.report_key is not None:
            store.reports.delete(item.report_key)
    with database.write() as session:
        inspections = retention.remove(session, [item.inspection_id for item in due]) if due else 0
        models = retention.remove_deleted_models(session)
    return Cleaned(marked=marked, inspections=inspections, models=models, idempotency_keys=keys)


def sweep_files(database: Database, store: Store, *, older_than_seconds: float = ORPHAN_SECONDS) -> int:
    """Remove files that no row names, of fenced workers and interrupted uploads; return how many were removed.

    Cost: reads every name in the store.
    """
    orphans = artifacts.sweep(database, store, older_than_seconds=older_than_seconds)
    for key in store.reports.listed(older_than_seconds=older_than_seconds):
        with database.read() as session:
            is_referenced = retention.is_report_of_a_row(session, key)
        if not is_referenced:
            orphans += store.reports.delete(key)
    return orphans
