"""Retention removes inspections in two phases, leaves active ones alone, and orphans no file."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from gradinspect.contracts.problems import ProblemError
from service.db import clock, inspections
from service.db import retention as marking
from service.db.engine import Database
from service.db.lists import queries
from service.db.lists.queries import InspectionListQuery
from service.db.results.tables import FindingRecord, LayerRecord
from service.db.tables import InspectionRecord, LabelRecord
from service.lifecycle import retention
from service.lifecycle.delivery import deliver
from service.store.local import LocalStore
from service.store.storage import Store
from tests.support.specimens import TENANT, end_well, finding, layer, make_report, read, submit, take

DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def end_days_ago(database: Database, store: Store, days: float, *, tenant: str = TENANT) -> str:
    """Make an inspection with a label, a report on disk and rows, that ended this many days ago."""
    record = submit(database, tenant=tenant, labels={"team": "vision"})
    assert deliver(database, store, take(database, record.id), make_report((layer(),), (), (finding(),)))
    shift(database, record.id, "finished_at", days)
    return record.id


def shift(database: Database, inspection_id: str, column: str, days: float) -> None:
    with database.write() as session:
        one = update(InspectionRecord).where(InspectionRecord.id == inspection_id)
        session.execute(one.values({column: clock.now_plus(-days * DAY)}))


def reports(store: Store) -> list[str]:
    return list(store.reports.listed(older_than_seconds=0))


def count_rows(database: Database) -> list[int]:
    with database.read() as session:
        tables = (InspectionRecord, LabelRecord, LayerRecord, FindingRecord)
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


def test_an_inspection_past_its_retention_is_hidden_first_and_removed_later(database: Database, store: Store) -> None:
    old = end_days_ago(database, store, 31)
    assert retention.clean_rows(database, store, kept_days=30).marked == 1
    with database.read() as session:
        assert queries.inspections(session, InspectionListQuery(), tenant=TENANT).items == []
        with pytest.raises(ProblemError):
            inspections.get(session, old, tenant=TENANT)
    assert reports(store) == [f"{old}.1"], "a reader may be at it"
    assert retention.clean_rows(database, store, kept_days=30).inspections == 0
    shift(database, old, "deleted_at", 1)
    assert retention.clean_rows(database, store, kept_days=30).inspections == 1
    assert count_rows(database) == [0, 0, 0, 0]
    assert reports(store) == []


def test_recent_and_active_inspections_are_kept(database: Database, store: Store) -> None:
    end_days_ago(database, store, 29)
    running = submit(database).id
    take(database, running)
    queued = submit(database).id
    for inspection_id in (running, queued):
        shift(database, inspection_id, "created_at", 100)
    assert retention.clean_rows(database, store, kept_days=30) == retention.Cleaned(0, 0, 0, 0)
    assert count_rows(database)[0] == 3


def test_without_a_retention_period_every_inspection_is_kept(database: Database, store: Store) -> None:
    end_days_ago(database, store, 10_000)
    assert retention.clean_rows(database, store, kept_days=None).marked == 0


def test_a_worker_without_its_lease_leaves_no_report(database: Database, store: Store) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    with database.write() as session:
        inspections.cancel(session, inspection_id, tenant=TENANT)
    assert not deliver(database, store, claim, make_report())
    assert reports(store) == []


def test_a_repeated_delivery_does_not_delete_its_report(database: Database, store: Store) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    for _ in range(2):
        assert deliver(database, store, claim, make_report())
    key = read(database, inspection_id).report_key
    assert key is not None
    assert store.reports.get(key) == make_report()


def test_the_sweep_removes_reports_that_no_row_names(database: Database, store: Store) -> None:
    ended = end_days_ago(database, store, 0)
    running = submit(database).id
    take(database, running)
    kept = [
        f"{ended}.1",
        store.reports.put(make_report(), inspection_id=running, attempt=1),  # its commit may follow
    ]
    store.reports.put(make_report(), inspection_id=ended, attempt=2)
    store.reports.put(make_report(), inspection_id=end_well(database), attempt=7)
    assert retention.sweep_files(database, store) == 0, "they are too young"
    assert retention.sweep_files(database, store, older_than_seconds=0) == 2
    assert sorted(reports(store)) == sorted(kept)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_active_inspection_is_never_hidden_whatever_its_times_are(database: Database, status: str) -> None:
    inspection_id = submit(database).id
    with database.write() as session:
        session.execute(
            update(InspectionRecord).values(
                status=status, lease_token="token", finished_at=clock.now_plus(-100 * 86400)
            )
        )
        assert marking.mark(session, kept_days=1) == 0
    assert read(database, inspection_id).deleted_at is None
