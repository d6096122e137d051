"""Artifacts as rows and bytes together: in which order both come and go, so that neither is left without the other.

A row is only ever added in the transaction that also puts the bytes in place, and whoever adds or removes either of one
digest holds its lock. A process that is killed in between leaves bytes without a row, which the sweep removes; never a
row without bytes.
"""

from __future__ import annotations

from service.db import artifacts
from service.db.engine import Database
from service.db.tables import ArtifactRecord
from service.store.storage import Store, Upload

ORPHAN_SECONDS = 3600  # chosen: longer than any transaction that puts bytes in place


def keep(database: Database, upload: Upload, *, tenant: str, kind: str) -> tuple[ArtifactRecord, bool]:
    """Accept an upload; returns its row, and whether it is new.

    Args:
        kind: what it was recognised as: torchscript, safetensors or unknown.
    """
    with database.write() as session:
        artifacts.lock_bytes(session, upload.digest)
        is_new = artifacts.insert(session, upload.digest, tenant=tenant, kind=kind, size_bytes=upload.size_bytes)
        upload.keep()
        return artifacts.get(session, upload.digest, tenant=tenant), is_new


def delete(database: Database, store: Store, artifact_id: str, *, tenant: str) -> None:
    """Delete an artifact.

    Raises:
        ProblemError: `not_found`; `in_use` while a model, or an inspection that has not ended, needs it.
    """
    with database.write() as session:
        artifacts.remove(session, artifact_id, tenant=tenant)
    _remove_bytes_without_row(database, store, artifact_id, tenant)


def sweep(database: Database, store: Store, *, older_than_seconds: float = ORPHAN_SECONDS) -> int:
    """Remove bytes that no row names, and unfinished uploads; returns how many artifacts were removed."""
    store.artifacts.sweep_incoming()
    orphans = 0
    for tenant, digest in store.artifacts.listed(older_than_seconds=older_than_seconds):
        with database.read() as session:
            is_known = artifacts.is_known(session, digest, tenant=tenant)
        if not is_known:
            orphans += _remove_bytes_without_row(database, store, digest, tenant)
    return orphans


def _remove_bytes_without_row(database: Database, store: Store, artifact_id: str, tenant: str) -> bool:
    """The same bytes may have been uploaded again by now, so their row is looked for under the lock."""
    with database.write() as session:
        artifacts.lock_bytes(session, artifact_id)
        return not artifacts.is_known(session, artifact_id, tenant=tenant) and store.artifacts.delete(
            artifact_id, tenant=tenant
        )
