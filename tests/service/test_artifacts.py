"""Rows and bytes of artifacts are added and removed together."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from service.db import artifacts as rows
from service.db import inspections, models
from service.db.engine import Database
from service.lifecycle import artifacts
from service.store.local import LocalStore
from service.store.storage import Store
from tests.support.specimens import has_bytes, store_bytes

TENANT = "default"
BYTES = b"weights"
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"
LAYER = {"type": "Linear", "in_features": 4, "out_features": 2}
SPEC = from_python(ModelSpec, {"input": {"shape": [4]}, "layers": [LAYER]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def keep(database: Database, store: Store, *, tenant: str = TENANT, kind: str = "safetensors") -> bool:
    with store.artifacts.receive(iter([BYTES]), tenant=tenant, limit=100) as upload:
        record, is_new = artifacts.keep(database, upload, tenant=tenant, kind=kind)
    assert (record.id, record.size_bytes, record.kind) == (DIGEST, len(BYTES), kind)
    return is_new


def has_row(database: Database, *, tenant: str = TENANT) -> bool:
    with database.read() as session:
        return rows.is_known(session, DIGEST, tenant=tenant)


def delete_problem(database: Database, store: Store, *, tenant: str = TENANT) -> str:
    with pytest.raises(ProblemError) as problem:
        artifacts.delete(database, store, DIGEST, tenant=tenant)
    return problem.value.code


def test_an_upload_gets_a_row_and_equal_bytes_are_not_new(database: Database, store: Store) -> None:
    assert keep(database, store)
    assert not keep(database, store)
    assert has_row(database)
    assert has_bytes(store, DIGEST)


def test_lost_bytes_are_restored_by_the_next_upload(database: Database, store: Store) -> None:
    keep(database, store)
    store.artifacts.delete(DIGEST, tenant=TENANT)
    keep(database, store)
    assert has_bytes(store, DIGEST)


def test_deleting_removes_row_and_bytes(database: Database, store: Store) -> None:
    keep(database, store)
    artifacts.delete(database, store, DIGEST, tenant=TENANT)
    assert not has_row(database)
    assert not has_bytes(store, DIGEST)
    assert delete_problem(database, store) == "not_found"


def test_another_tenants_artifact_is_not_found_and_stays(database: Database, store: Store) -> None:
    keep(database, store, tenant="theirs")
    assert delete_problem(database, store, tenant="ours") == "not_found"
    assert has_bytes(store, DIGEST, tenant="theirs")


def test_an_artifact_is_in_use_until_its_model_is_deleted(database: Database, store: Store) -> None:
    keep(database, store)
    with database.write() as session:
        model = models.register(session, SpecSource(spec=SPEC, weights=DIGEST), tenant=TENANT, name=None)
    assert delete_problem(database, store) == "in_use"
    assert has_bytes(store, DIGEST)
    with database.write() as session:
        models.delete(session, model.id, tenant=TENANT)
    artifacts.delete(database, store, DIGEST, tenant=TENANT)


def test_data_is_in_use_until_its_inspection_has_ended(database: Database, store: Store) -> None:
    keep(database, store)
    request = {"model": {"spec": {"input": {"shape": [4]}, "layers": [LAYER]}}}
    body = from_python(InspectionRequest, request | {"data": {"artifact": DIGEST, "inputs": ["x"]}})
    with database.write() as session:
        model = models.register_inline(session, SpecSource(spec=SPEC), tenant=TENANT)
        inspection = inspections.insert(
            session, body, tenant=TENANT, model=model, policy=DEFAULT_POLICY, queue="cpu", max_queued=10
        )
    assert delete_problem(database, store) == "in_use"
    with database.write() as session:
        inspections.cancel(session, inspection.id, tenant=TENANT)
    artifacts.delete(database, store, DIGEST, tenant=TENANT)


def test_concurrent_uploads_and_deletions_leave_a_row_exactly_if_there_are_bytes(
    database: Database, store: Store
) -> None:
    def step(number: int) -> None:
        if number % 2:
            keep_or_not(database, store)
        else:
            with suppress(ProblemError):  # there may be none at this moment
                artifacts.delete(database, store, DIGEST, tenant=TENANT)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(step, range(64)))
    assert has_row(database) == has_bytes(store, DIGEST)


def keep_or_not(database: Database, store: Store) -> None:
    with store.artifacts.receive(iter([BYTES]), tenant=TENANT, limit=100) as upload:
        artifacts.keep(database, upload, tenant=TENANT, kind="unknown")


def test_the_sweep_removes_only_bytes_without_a_row(database: Database, store: Store) -> None:
    keep(database, store)
    orphan = store_bytes(store, [b"orphan"], limit=100)
    assert artifacts.sweep(database, store) == 0, "it is too young: its transaction may be under way"
    assert artifacts.sweep(database, store, older_than_seconds=0) == 1
    assert not has_bytes(store, orphan.digest)
    assert has_bytes(store, DIGEST)
