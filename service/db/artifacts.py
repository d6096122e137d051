"""Rows of uploaded files. `service.lifecycle.artifacts` keeps rows and files together."""

from __future__ import annotations

from sqlalchemy import Exists, delete, exists, or_, select
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from service.db import clock
from service.db.engine import wait_lock
from service.db.ids import is_digest
from service.db.statements import change, insert_unless_present
from service.db.tables import ArtifactRecord, InspectionRecord, ModelRecord


def get(session: Session, artifact_id: str, *, tenant: str) -> ArtifactRecord:
    """Read one artifact.

    Raises:
        ProblemError: `not_found`.
    """
    record = session.get(ArtifactRecord, (artifact_id, tenant)) if is_digest(artifact_id) else None
    if record is None:
        raise ProblemError("not_found", f"there is no artifact {artifact_id}")
    return record


def is_known(session: Session, artifact_id: str, *, tenant: str) -> bool:
    """Check whether the row exists."""
    return is_digest(artifact_id) and session.get(ArtifactRecord, (artifact_id, tenant)) is not None


def hold(session: Session, artifact_id: str, *, tenant: str) -> ArtifactRecord:
    """Read one artifact and keep others from deleting it until the transaction ends.

    Raises:
        ProblemError: `not_found`.
    """
    record = session.get(ArtifactRecord, (artifact_id, tenant), with_for_update={"read": True})
    if record is None:
        raise ProblemError("not_found", f"there is no artifact {artifact_id}; upload it first")
    return record


def insert(session: Session, artifact_id: str, *, tenant: str, kind: str, size_bytes: int) -> bool:
    """Add the row; returns False when it exists."""
    return insert_unless_present(
        session,
        ArtifactRecord,
        id=artifact_id,
        tenant_id=tenant,
        kind=kind,
        size_bytes=size_bytes,
        created_at=clock.now(),
    )


def remove(session: Session, artifact_id: str, *, tenant: str) -> None:
    """Delete the row.

    Raises:
        ProblemError: `not_found`; `in_use` while a model, or an inspection that has not ended, needs the bytes.
    """
    get(session, artifact_id, tenant=tenant)
    lock_bytes(session, artifact_id)
    # Locked by a separate statement, so that the next one sees what the previous holder of the lock has committed.
    record = session.get(ArtifactRecord, (artifact_id, tenant), with_for_update=True, populate_existing=True)
    if record is None:
        raise ProblemError("not_found", f"there is no artifact {artifact_id}")
    if session.scalar(select(_model_uses(artifact_id, tenant))):
        raise ProblemError("in_use", f"a model uses {artifact_id}; delete the model first")
    if session.scalar(select(_inspection_uses(artifact_id, tenant))):
        raise ProblemError("in_use", f"an inspection that has not ended reads {artifact_id}; wait for it or cancel it")
    mine = delete(ArtifactRecord).where(ArtifactRecord.id == artifact_id, ArtifactRecord.tenant_id == tenant)
    change(session, mine)
    session.expunge(record)


def lock_bytes(session: Session, artifact_id: str) -> None:
    """Lock this artifact's row and file against other writers until the transaction ends."""
    wait_lock(session, int(artifact_id.removeprefix("sha256:")[:15], 16))


def _model_uses(artifact_id: str, tenant: str) -> Exists:
    return exists().where(
        ModelRecord.tenant_id == tenant,
        ModelRecord.deleted_at.is_(None),
        or_(ModelRecord.file == artifact_id, ModelRecord.weights == artifact_id),
    )


def _inspection_uses(artifact_id: str, tenant: str) -> Exists:
    return exists().where(
        InspectionRecord.tenant_id == tenant,
        InspectionRecord.data_artifact == artifact_id,
        InspectionRecord.status.in_(("queued", "running")),
    )
