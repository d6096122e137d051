"""Delivery of a report: first its file, then its rows and the status in one transaction."""

from __future__ import annotations

from time import monotonic, sleep

from gradinspect.contracts.report.report import Report
from service.db import counters, leases
from service.db.engine import UNAVAILABLE, Database
from service.db.leases import Claim
from service.store.storage import Store

PATIENCE_SECONDS = 45.0  # chosen: as long as a worker goes on without a heartbeat, with the default settings
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


def deliver(database: Database, store: Store, claim: Claim, report: Report) -> bool:
    """Store a report and end its inspection; return False if the lease was lost, and nothing is stored.

    Waits for a database that becomes unavailable, because the computation took longer than the wait.

    Raises:
        ProblemError: `disk_full`, with the inspection still running under the lease.
        any of `UNAVAILABLE`: the database stayed unavailable. Whether it committed is unknown, so the file stays; the
            sweep removes it if no row names it.
    """
    key = store.reports.put(report, inspection_id=claim.lease.inspection_id, attempt=claim.attempt)
    is_mine = _finish(database, claim, report, key)
    if not is_mine:
        store.reports.delete(key)
        with database.write() as session:
            counters.add(session, "fenced_writes", 1)
    return is_mine


def _finish(database: Database, claim: Claim, report: Report, key: str) -> bool:
    """Commit, and retry while the database is unavailable: `finish` recognises a commit whose answer was lost."""
    deadline, pause = monotonic() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            with database.write() as session:
                return leases.finish(session, claim.lease, report, report_key=key)
        except UNAVAILABLE:
            if monotonic() + pause > deadline:
                raise
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
