"""Any number of requests with one key create one inspection."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.sources import SpecSource
from service.db import clock, idempotency, inspections, models
from service.db.engine import Database
from service.db.tables import IdempotencyRecord, InspectionRecord
from tests.support.specimens import TENANT, request, spec

DIGEST = idempotency.request_digest("POST", b"{}")


def submit(database: Database, *, key: str = "key", digest: str = DIGEST, tenant: str = TENANT) -> str:
    """Answer one request with an Idempotency-Key; returns the id of its inspection."""
    with database.write() as session:
        earlier = idempotency.reserve(session, key, digest, tenant=tenant)
        if earlier is not None:
            return earlier
        model = models.register_inline(session, SpecSource(spec=spec()), tenant=tenant)
        record = inspections.insert(
            session, request(), tenant=tenant, model=model, policy=DEFAULT_POLICY, queue="cpu", max_queued=10
        )
        idempotency.complete(session, key, record.id, tenant=tenant)
        return record.id


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(InspectionRecord)) or 0


def test_digests_differ_wherever_requests_do() -> None:
    requests = [("POST", "/a", b"b"), ("POST", "/ab", b""), ("POST", "/a", b"c"), ("POST", "/a")]
    assert len({idempotency.request_digest(*parts) for parts in requests}) == len(requests)


def test_a_repeated_request_gets_the_inspection_of_the_first(database: Database) -> None:
    assert submit(database) == submit(database)
    assert count(database) == 1


def test_equal_keys_of_two_tenants_are_independent(database: Database) -> None:
    assert submit(database, tenant="ours") != submit(database, tenant="theirs")


def test_a_key_cannot_be_used_for_another_request(database: Database) -> None:
    submit(database)
    with pytest.raises(ProblemError) as problem:
        submit(database, digest=idempotency.request_digest("POST", b"[]"))
    assert problem.value.code == "idempotency_mismatch"
    assert count(database) == 1


def test_a_failed_request_does_not_reserve_its_key(database: Database) -> None:
    with database.write() as session:
        assert idempotency.reserve(session, "key", DIGEST, tenant=TENANT) is None
        session.rollback()
    submit(database)
    assert count(database) == 1


def test_a_key_is_free_again_after_its_time(database: Database) -> None:
    first = submit(database)
    with database.write() as session:
        session.execute(update(IdempotencyRecord).values(expires_at=clock.now_plus(-1)))
    assert submit(database) != first


def test_expired_keys_are_deleted_and_others_kept(database: Database) -> None:
    submit(database, key="old")
    with database.write() as session:
        session.execute(update(IdempotencyRecord).values(expires_at=clock.now_plus(-1)))
    submit(database, key="new")
    with database.write() as session:
        assert idempotency.forget_expired(session) == 1
    with database.read() as session:
        assert session.scalars(select(IdempotencyRecord.key)).all() == ["new"]


def test_fifty_clients_with_one_key_get_one_inspection(database: Database) -> None:
    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(lambda _: submit(database), range(50)))
    assert len(ids) == 1
    assert count(database) == 1


def test_a_request_that_waits_too_long_for_the_first_one_is_refused(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PostgreSQL only: on SQLite the first request locks the whole database, so the wait is for that lock.
    monkeypatch.setattr(idempotency, "WAIT_SECONDS", 0.05)
    database = Database(postgresql_url)
    with database.write() as first:
        assert idempotency.reserve(first, "key", DIGEST, tenant=TENANT) is None
        with pytest.raises(ProblemError) as problem:
            submit(database)
    database.dispose()
    assert problem.value.code == "idempotency_in_progress"
    assert problem.value.retry_after == 1
