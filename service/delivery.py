"""The end of an inspection that went well: the report's file first, then its rows and the status in one transaction."""

from __future__ import annotations

from gradinspect.contracts.report import Report
from service.db import counters, leases
from service.db.engine import Database
from service.db.leases import Claim
from service.storage import Store


def deliver(database: Database, store: Store, claim: Claim, report: Report) -> bool:
    """Store a report and end its inspection; False when the lease was lost, and then nothing is left behind.

    Raises:
        ProblemError: `disk_full`, with the inspection still running under the lease.
    """
    key = store.reports.put(report, inspection_id=claim.lease.inspection_id, attempt=claim.attempt)
    with database.write() as session:
        is_mine = leases.finish(session, claim.lease, report, report_key=key)
    if not is_mine:
        store.reports.delete(key)
        with database.write() as session:
            counters.add(session, "fenced_writes", 1)
    return is_mine
