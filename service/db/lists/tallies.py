"""Statistics of ended inspections: their number by status, their run times and waiting times, counted from the rows.

Counters must not fall when retention removes rows, so removed rows are added to `counters` under the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.orm import Session

from gradinspect.contracts.wire.resources import ENDED
from service.db import clock, counters
from service.db.tables import ArtifactRecord, InspectionRecord

# Seconds; chosen: a warm small inspection takes 0.05 s, the wall limit is 300 s by default.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
DURATION, WAIT = "duration", "wait"
_REMOVED = "removed_"


def ended(status: str) -> str:
    """Return the name of the tally of inspections that ended with a status."""
    return f"ended_{status}"


def bucket(measure: str, bound: float) -> str:
    """Return the name of the tally of inspections of at most `bound` seconds; infinity counts all."""
    return f"{measure}_le_{bound:g}"


def total(measure: str) -> str:
    """Return the name of the tally of seconds."""
    return f"{measure}_seconds"


def count(session: Session) -> dict[str, float]:
    """Return every tally, of existing and of removed rows.

    Cost: one pass over the inspections.
    """
    found = _count(session, None)
    for name, value in counters.read(session).items():
        known = name.removeprefix(_REMOVED)
        found[known] = found.get(known, 0.0) + value
    return found


def keep_counted(session: Session, removed: ColumnElement[bool]) -> None:
    """Add inspections that this transaction removes to the counters."""
    for name, value in sorted(_count(session, removed).items()):
        counters.add(session, f"{_REMOVED}{name}", value)


def artifact_bytes(session: Session) -> int:
    """Return the bytes of all stored uploads."""
    return int(session.scalar(select(func.coalesce(func.sum(ArtifactRecord.size_bytes), 0))) or 0)


def _count(session: Session, condition: ColumnElement[bool] | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in session.execute(_query(condition)):
        if row[0] in ENDED:
            found[ended(row[0])] = float(row[1])
        for name, value in zip(_names(), row[2:], strict=True):
            found[name] = found.get(name, 0.0) + float(value or 0.0)
    return found


def _query(condition: ColumnElement[bool] | None) -> Select[Any]:  # Any: more columns than a type can list
    run = clock.seconds_between(InspectionRecord.started_at, InspectionRecord.finished_at)
    waited = clock.seconds_between(InspectionRecord.created_at, InspectionRecord.started_at)
    sums = [column for seconds in (run, waited) for column in _sums(seconds)]
    query = select(InspectionRecord.status, func.count(), *sums).group_by(InspectionRecord.status)
    return query if condition is None else query.where(condition)


def _sums(seconds: ColumnElement[Any]) -> Iterator[ColumnElement[Any]]:  # Any: counts and seconds
    for bound in BUCKETS:
        yield func.sum(case((seconds <= bound, 1), else_=0))
    yield func.count(seconds)
    yield func.sum(seconds)


def _names() -> Sequence[str]:
    return [
        name
        for measure in (DURATION, WAIT)
        for name in (*(bucket(measure, bound) for bound in BUCKETS), bucket(measure, float("inf")), total(measure))
    ]
