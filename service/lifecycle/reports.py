"""The stored report of an inspection: found through its row, read from the store."""

from __future__ import annotations

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from service.db import inspections
from service.db.engine import Database
from service.db.tables import InspectionRecord
from service.store.storage import Store

_HOW_IT_ENDED = {"succeeded": "ended well", "failed": "failed", "cancelled": "was cancelled"}


def read_report(database: Database, store: Store, inspection_id: str, *, tenant: str) -> Report:
    """Return the stored report of one inspection.

    Raises:
        ProblemError: `not_found`, `not_finished`, `no_report`.
    """
    with database.read() as session:
        record = inspections.get(session, inspection_id, tenant=tenant)
    return store.reports.get(report_key(record))


def report_key(record: InspectionRecord) -> str:
    """Return the key of an inspection's report in the store.

    Raises:
        ProblemError: `not_finished`; `no_report`, it ended without one.
    """
    if record.report_key is not None:
        return record.report_key
    if inspections.has_ended(record):
        raise ProblemError("no_report", f"the inspection {_HOW_IT_ENDED[record.status]} and has no report")
    raise ProblemError("not_finished", f"the inspection is {record.status}", retry_after=1)
