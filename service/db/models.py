"""Rows of registered models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.report.rows import ParameterMeasurement
from gradinspect.contracts.sources import AnySource, FileSource
from gradinspect.contracts.spec.digest import spec_digest
from service.db import artifacts, clock
from service.db.ids import is_digest, is_id, new_id
from service.db.statements import change, insert_unless_present
from service.db.tables import InspectionRecord, ModelRecord


def get(session: Session, model_id: str, *, tenant: str) -> ModelRecord:
    """Read one model.

    Raises:
        ProblemError: `not_found`; a deleted model is not found either.
    """
    record = session.get(ModelRecord, (model_id, tenant)) if is_id("mdl", model_id) else None
    return _present(record, model_id)


def hold(session: Session, model_id: str, *, tenant: str) -> ModelRecord:
    """Read one model and keep others from deleting it until the transaction ends.

    Raises:
        ProblemError: `not_found`.
    """
    record = session.get(ModelRecord, (model_id, tenant), with_for_update={"read": True}, populate_existing=True)
    return _present(record, model_id)


def register(session: Session, source: AnySource, *, tenant: str, name: str | None) -> ModelRecord:
    """Add a model.

    Raises:
        ProblemError: `not_found`, its file or its weights were not uploaded; `invalid_model`, the file is of another
            kind.
    """
    _hold_files(session, source, tenant=tenant, pointer=f"/{source.kind}")
    record = ModelRecord(id=new_id("mdl"), tenant_id=tenant, name=name, **_columns(source))
    session.add(record)
    session.flush()
    return record


def register_inline(session: Session, source: AnySource, *, tenant: str, name: str | None = None) -> ModelRecord:
    """Return the model that came with an inspection: one row per source and name, however often it is sent.

    Raises:
        ProblemError: as `register`.
    """
    _hold_files(session, source, tenant=tenant, pointer=f"/model/{source.kind}")
    columns = _columns(source)
    digest = columns["digest"]
    insert_unless_present(
        session,
        ModelRecord,
        id=new_id("mdl"),
        tenant_id=tenant,
        name=name,
        is_inline=True,
        created_at=clock.now(),
        **columns,
    )
    found = session.scalar(
        select(ModelRecord)
        .where(
            ModelRecord.tenant_id == tenant,
            ModelRecord.digest == digest,
            ModelRecord.name.is_not_distinct_from(name),
            ModelRecord.is_inline,
            ModelRecord.deleted_at.is_(None),
        )
        .with_for_update(read=True)
    )
    # Deleted between the two statements: the caller's next request creates it again.
    record = _present(found, digest)
    if not record.is_here:  # known so far by pushed reports alone
        for column, value in columns.items():
            setattr(record, column, value)
    return record


def register_pushed(
    session: Session,
    reference: ModelReference,
    parameters: Sequence[ParameterMeasurement],
    *,
    tenant: str,
    name: str | None,
) -> ModelRecord:
    """Return the model of a pushed report: the newest one with its kind, digest and name, else a new row.

    Args:
        reference: what the report says of the model. Without a digest, the shapes of the parameters make one.
        parameters: of the report.
        name: under which the model is shown.

    Raises:
        ProblemError: `invalid_request`, the digest is of a model of another kind.
    """
    digest = reference.digest if is_digest(reference.digest or "") else None
    digest = digest or _digest_of_shapes(reference.kind, parameters)
    known = (
        select(ModelRecord)
        .where(
            ModelRecord.tenant_id == tenant,
            ModelRecord.digest == digest,
            ModelRecord.name.is_not_distinct_from(name),
            ModelRecord.deleted_at.is_(None),
        )
        .order_by(ModelRecord.created_at.desc(), ModelRecord.id.desc())
        .limit(1)
        .with_for_update(read=True)
    )
    record = session.scalar(known)
    if record is None:
        insert_unless_present(
            session, ModelRecord, id=new_id("mdl"), tenant_id=tenant, name=name, is_inline=True, kind=reference.kind,
            digest=digest, parameters=sum(row.numel for row in parameters), created_at=clock.now(),
        )  # fmt: skip
        record = session.scalar(known)
    record = _present(record, digest)
    if record.kind != reference.kind:
        detail = f"{digest} is a model of kind {record.kind}, not {reference.kind}"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/report/model/digest", detail)])
    return record


def delete(session: Session, model_id: str, *, tenant: str) -> None:
    """Delete one model. Its ended inspections remain and still refer to it.

    Raises:
        ProblemError: `not_found`; `in_use` while an inspection of it is queued or running.
    """
    if not is_id("mdl", model_id):
        raise _absent(model_id)
    # Locked by a separate statement, so that the next one sees what the previous holder of the lock has committed.
    record = session.get(ModelRecord, (model_id, tenant), with_for_update=True, populate_existing=True)
    _present(record, model_id)
    active = exists().where(
        InspectionRecord.tenant_id == tenant,
        InspectionRecord.model_id == model_id,
        InspectionRecord.status.in_(("queued", "running")),
    )
    if session.scalar(select(active)):
        raise ProblemError("in_use", f"an inspection of {model_id} has not ended; wait for it or cancel it")
    change(
        session,
        update(ModelRecord)
        .where(ModelRecord.id == model_id, ModelRecord.tenant_id == tenant)
        .values(deleted_at=clock.now()),
    )


def learn_parameters(session: Session, model_id: str, *, tenant: str, parameters: int) -> None:
    """Store how many parameters a model has, once an inspection has loaded it."""
    change(
        session,
        update(ModelRecord)
        .where(ModelRecord.id == model_id, ModelRecord.tenant_id == tenant, ModelRecord.parameters.is_(None))
        .values(parameters=parameters),
    )


def _hold_files(session: Session, source: AnySource, *, tenant: str, pointer: str) -> None:
    """Keep the files that a source names from being deleted until the transaction ends; `pointer` is the source's."""
    if isinstance(source, FileSource):
        artifact = artifacts.hold(session, source.file, tenant=tenant)
        if artifact.kind != source.kind:
            detail = f"{source.file} is {artifact.kind}, not {source.kind}"
            raise ProblemError("invalid_model", detail, errors=[FieldError(pointer, detail)])
    elif source.weights is not None:
        artifacts.hold(session, source.weights, tenant=tenant)


def _present(record: ModelRecord | None, model_id: str) -> ModelRecord:
    if record is None or record.deleted_at is not None:
        raise _absent(model_id)
    return record


def _absent(model_id: str) -> ProblemError:
    return ProblemError("not_found", f"there is no model {model_id}")


def _columns(source: AnySource) -> dict[str, Any]:  # Any: values of columns
    if isinstance(source, FileSource):
        declared = None if source.input is None else source.input.model_dump(mode="json")
        return {"kind": source.kind, "digest": source.file, "file": source.file, "input": declared}
    document = source.spec.model_dump(mode="json", exclude_none=True)
    return {
        "kind": source.kind, "digest": spec_digest(source.spec), "document": document, "weights": source.weights,
        "parameters": source.spec.plan.parameters,
    }  # fmt: skip


def _digest_of_shapes(kind: str, parameters: Sequence[ParameterMeasurement]) -> str:
    canonical = json.dumps([kind, *([row.name, row.shape, row.dtype] for row in parameters)])
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
