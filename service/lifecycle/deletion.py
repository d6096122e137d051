"""The deletion of an inspection by its owner: hidden first, then its file, then its rows.

After a crash in between, the maintainer finds the hidden row and goes on, as for an inspection past its retention.
"""

from __future__ import annotations

from gradinspect.contracts.problems import ProblemError
from service.db import inspections, retention
from service.db.engine import Database
from service.store.storage import Store


def delete_inspection(database: Database, store: Store, inspection_id: str, *, tenant: str) -> None:
    """Delete an inspection that has ended, with its report, rows and labels.

    Raises:
        ProblemError: `not_found`; `not_finished` while it is queued or running.
    """
    with database.write() as session:
        record = inspections.get(session, inspection_id, tenant=tenant)
        if not retention.hide(session, inspection_id, tenant=tenant):
            detail = f"the inspection is {record.status}; cancel it first, or wait for its end"
            raise ProblemError("not_finished", detail)
        session.refresh(record)  # it may have ended, with a report, after it was read
    # The file first: a row whose file is gone is found again, a file whose row is gone might not be.
    if record.report_key is not None:
        store.reports.delete(record.report_key)
    with database.write() as session:
        retention.remove(session, [inspection_id])
