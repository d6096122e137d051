"""Inspections as their callers see them."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.resources import Status
from service.db import inspections, leases
from service.db.engine import Database
from tests.support.specimens import TENANT, end_well, read, submit, take


def test_a_new_inspection_is_queued_and_never_attempted(database: Database) -> None:
    record = read(database, submit(database, labels={"team": "vision"}, loss="mse").id)
    assert (record.status, record.attempt, record.stage, record.fraction) == ("queued", 0, "queued", 0.0)
    assert (record.verdict, record.summary, record.error_code, record.started_at) == (None, None, None, None)
    assert record.labels == {"team": "vision"}
    assert record.request["loss"] == "mse"
    assert record.created_at.utcoffset() is not None


def test_an_unknown_id_is_not_found(database: Database) -> None:
    for unknown in ("insp_00000000-0000-7000-8000-000000000000", "nonsense", "insp_\x00"):
        with database.read() as session, pytest.raises(ProblemError) as problem:
            inspections.get(session, unknown, tenant=TENANT)
        assert problem.value.code == "not_found"


def test_another_tenants_inspection_is_not_found(database: Database) -> None:
    theirs = submit(database, tenant="theirs").id
    with database.read() as session, pytest.raises(ProblemError) as problem:
        inspections.get(session, theirs, tenant="ours")
    assert problem.value.code == "not_found"
    with database.write() as session, pytest.raises(ProblemError):
        inspections.cancel(session, theirs, tenant="ours")
    assert read(database, theirs, tenant="theirs").status == "queued"


def test_a_full_queue_refuses_one_tenant_and_not_another(database: Database) -> None:
    submit(database, max_queued=2)
    submit(database, max_queued=2)
    with pytest.raises(ProblemError) as problem:
        submit(database, max_queued=2)
    assert problem.value.code == "too_many_inspections"
    assert problem.value.retry_after is not None
    submit(database, tenant="other", max_queued=2)


def test_data_that_was_not_uploaded_is_refused(database: Database) -> None:
    with pytest.raises(ProblemError) as problem:
        submit(database, data={"artifact": f"sha256:{'0' * 64}", "inputs": ["x"]})
    assert problem.value.code == "not_found"


def test_cancelling_a_queued_inspection_ends_it_at_once_and_for_good(database: Database) -> None:
    inspection_id = submit(database).id
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "cancelled"
    with database.write() as session:
        assert leases.claim(session, inspection_id, owner="worker", lease_seconds=60) is None
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "cancelled"
    record = read(database, inspection_id)
    assert record.status == "cancelled"
    assert record.finished_at is not None


def test_cancelling_a_running_inspection_fences_its_worker(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "cancelling"
    with database.write() as session:
        assert not leases.is_held(session, claim.lease)
        assert not leases.heartbeat(session, claim.lease, lease_seconds=60)
        assert not leases.progress(session, claim.lease, stage="forward", fraction=0.5)
        assert not leases.fail(session, claim.lease, code="internal", detail="late")
        assert not leases.release(session, claim.lease)
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "cancelled"


def test_an_inspection_that_ended_cannot_be_cancelled(database: Database) -> None:
    inspection_id = end_well(database)
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "ended"
    assert read(database, inspection_id).status == "succeeded"


def test_counts_are_given_for_every_state(database: Database) -> None:
    with database.read() as session:
        empty = inspections.count_by_status(session)
    assert empty.counts == {"queued": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert empty.oldest_queued_seconds is None
    submit(database)
    take(database, submit(database).id)
    end_well(database, tenant="other")
    with database.read() as session:
        everyone = inspections.count_by_status(session)
        ours = inspections.count_by_status(session, tenant=TENANT)
    assert everyone.counts == {"queued": 1, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0}
    assert ours.counts["succeeded"] == 0
    assert everyone.oldest_queued_seconds is not None
    assert everyone.oldest_queued_seconds >= 0


def test_a_label_with_a_nul_is_the_callers_mistake_on_every_database(database: Database) -> None:
    with pytest.raises(ProblemError) as problem:
        submit(database, labels={"team": "\x00"})
    assert problem.value.code in {"invalid_request", "malformed_json"}


def test_an_inspection_requeued_during_a_cancel_is_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Release the inspection between the update of queued inspections and that of running ones."""
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    cancel_from = inspections._cancel_from

    def give_back_first(session: Session, inspection_id: str, tenant: str, status: Status) -> bool:
        if status == "running":
            assert leases.release(session, claim.lease)
        return cancel_from(session, inspection_id, tenant, status)

    monkeypatch.setattr(inspections, "_cancel_from", give_back_first)
    with database.write() as session:
        assert inspections.cancel(session, inspection_id, tenant=TENANT) == "cancelled"
    assert read(database, inspection_id).status == "cancelled"
