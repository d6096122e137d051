"""Rows and bytes of artifacts, added and removed in an order that never leaves a row without bytes.

A row is added only in the transaction that also keeps the bytes, under the lock of the digest, and removal takes the
same lock. A process killed in between leaves bytes without a row, which the sweep removes.
"""

from __future__ import annotations

from service.db import artifacts
from service.db.engine import Database
from service.db.tables import ArtifactRecord
from service.store.storage import Store, Upload

ORPHAN_SECONDS = 3600  # chosen: longer than any transaction that keeps bytes


def keep(database: Database, upload: Upload, *, tenant: str, kind: str) -> tuple[ArtifactRecord, bool]:
    """Accept an upload; return its row and whether it is new.

    Args:
        database: gets the row.
        upload: received and checked.
        tenant: owner of the artifact.
        kind: an `ArtifactKind`.
    """
    with database.write() as session:
        artifacts.lock_bytes(session, upload.digest)
        is_new = artifacts.insert(session, upload.digest, tenant=tenant, kind=kind, size_bytes=upload.size_bytes)
        upload.keep()
        return artifacts.get(session, upload.digest, tenant=tenant), is_new


def delete(database: Database, store: Store, artifact_id: str, *, tenant: str) -> None:
    """Delete an artifact.

    Raises:
        ProblemError: `not_found`; `in_use` while a model or an active inspection needs it.
    """
    with database.write() as session:
        artifacts.remove(session, artifact_id, tenant=tenant)
    _remove_bytes_without_row(database, store, artifact_id, tenant)


def sweep(database: Database, store: Store, *, older_than_seconds: float = ORPHAN_SECONDS) -> int:
    """Remove bytes without a row and unfinished uploads; return how many artifacts were removed."""
    store.artifacts.sweep_incoming()
    orphans = 0
    for tenant, digest in store.artifacts.listed(older_than_seconds=older_than_seconds):
        with database.read() as session:
            is_known = artifacts.is_known(session, digest, tenant=tenant)
        if not is_known:
            orphans += _remove_bytes_without_row(database, store, digest, tenant)
    return orphans


def _remove_bytes_without_row(database: Database, store: Store, artifact_id: str, tenant: str) -> bool:
    """Remove bytes unless, checked under the lock, they have a row: they may have been uploaded again by now."""
    with database.write() as session:
        artifacts.lock_bytes(session, artifact_id)
        return not artifacts.is_known(session, artifact_id, tenant=tenant) and store.artifacts.delete(
            artifact_id, tenant=tenant
        )
