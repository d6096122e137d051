"""Registered models: created from a spec or a file, deletable when no unfinished inspection needs them."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.sources import SpecSource, TorchScriptSource
from gradinspect.contracts.spec.tensors import SampleInput
from service.db import artifacts, inspections, models, retention
from service.db.engine import Database
from service.db.tables import ModelRecord
from tests.support.specimens import TENANT, end_well, read, spec, submit

FILE = f"sha256:{'ab' * 32}"


def register(database: Database, *, tenant: str = TENANT, name: str | None = "mlp", weights: str | None = None) -> str:
    with database.write() as session:
        return models.register(session, SpecSource(spec=spec(), weights=weights), tenant=tenant, name=name).id


def upload(database: Database, *, kind: str = "torchscript", tenant: str = TENANT) -> None:
    with database.write() as session:
        artifacts.insert(session, FILE, tenant=tenant, kind=kind, size_bytes=3)


def problem_of(database: Database, model_id: str, *, tenant: str = TENANT) -> str:
    with database.write() as session, pytest.raises(ProblemError) as problem:
        models.delete(session, model_id, tenant=tenant)
    return problem.value.code


def test_a_spec_is_stored_with_document_and_digest(database: Database) -> None:
    model_id = register(database)
    with database.read() as session:
        record = models.get(session, model_id, tenant=TENANT)
    assert (record.name, record.kind, record.parameters) == ("mlp", "spec", 10)
    assert record.document == spec().model_dump(mode="json", exclude_none=True)
    assert record.digest.startswith("sha256:")


def test_registering_a_spec_twice_gives_two_models_of_one_digest(database: Database) -> None:
    ids = [register(database), register(database)]
    assert len(set(ids)) == 2
    with database.read() as session:
        assert len({models.get(session, model_id, tenant=TENANT).digest for model_id in ids}) == 1


def test_a_repeated_inline_spec_is_one_model(database: Database) -> None:
    assert submit(database).model_id == submit(database).model_id
    assert submit(database, tenant="other").model_id != submit(database).model_id
    with database.write() as session:
        other = models.register_inline(session, SpecSource(spec=spec(out_features=3)), tenant=TENANT)
    assert other.id != submit(database).model_id


def test_a_deleted_inline_model_is_created_again(database: Database) -> None:
    first = read(database, end_well(database)).model_id
    with database.write() as session:
        models.delete(session, first, tenant=TENANT)
    assert submit(database).model_id != first


def test_a_torchscript_model_needs_its_file(database: Database) -> None:
    source = TorchScriptSource(torchscript=FILE, input=SampleInput(shape=(4,)))
    with database.write() as session, pytest.raises(ProblemError) as problem:
        models.register(session, source, tenant=TENANT, name=None)
    assert problem.value.code == "not_found"
    upload(database)
    with database.write() as session:
        record = models.register(session, source, tenant=TENANT, name=None)
    assert (record.kind, record.digest, record.file, record.parameters) == ("torchscript", FILE, FILE, None)
    assert record.input == {"shape": [4], "dtype": "float32"}


def test_a_file_of_another_kind_cannot_be_registered(database: Database) -> None:
    upload(database, kind="safetensors")
    with database.write() as session, pytest.raises(ProblemError) as problem:
        models.register(session, TorchScriptSource(torchscript=FILE), tenant=TENANT, name=None)
    assert problem.value.code == "invalid_model"


def test_weights_must_have_been_uploaded_by_the_same_tenant(database: Database) -> None:
    upload(database, kind="safetensors", tenant="theirs")
    with pytest.raises(ProblemError) as problem:
        register(database, weights=FILE)
    assert problem.value.code == "not_found"
    register(database, tenant="theirs", weights=FILE)


def test_a_deleted_model_is_not_found_any_more(database: Database) -> None:
    model_id = register(database)
    with database.write() as session:
        models.delete(session, model_id, tenant=TENANT)
    assert problem_of(database, model_id) == "not_found"
    with pytest.raises(ProblemError):
        submit(database, model_id=model_id)


def test_another_tenants_model_is_not_found(database: Database) -> None:
    model_id = register(database, tenant="theirs")
    assert problem_of(database, model_id, tenant="ours") == "not_found"
    assert problem_of(database, "mdl_\x00") == "not_found"


def test_a_model_is_in_use_until_its_inspections_have_ended(database: Database) -> None:
    model_id = register(database)
    inspection_id = submit(database, model_id=model_id).id
    assert problem_of(database, model_id) == "in_use"
    with database.write() as session:
        inspections.cancel(session, inspection_id, tenant=TENANT)
    with database.write() as session:
        models.delete(session, model_id, tenant=TENANT)
    assert read(database, inspection_id).model_id == model_id, "history keeps its names"


def test_rows_of_deleted_models_go_when_no_inspection_names_them(database: Database) -> None:
    named, unnamed, kept = register(database), register(database), register(database)
    end_well(database, model_id=named)
    for model_id in (named, unnamed):
        with database.write() as session:
            models.delete(session, model_id, tenant=TENANT)
    with database.write() as session:
        assert retention.remove_deleted_models(session) == 1
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(ModelRecord)) == 2
        models.get(session, kept, tenant=TENANT)
