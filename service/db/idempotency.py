"""Idempotency-Keys: any number of requests with one key create one inspection.

The key is reserved in the transaction that makes the inspection, so either both exist or neither. A second request with
the key waits for that transaction for a moment and then answers as the first one did.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import ColumnElement, and_, delete, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from service.db import clock
from service.db.engine import gave_up_on_lock
from service.db.statements import change, insert_unless_present
from service.db.tables import IdempotencyRecord

WAIT_SECONDS = 2  # chosen: an insert takes milliseconds; after a longer wait the caller is asked to retry


def request_digest(*parts: bytes | str) -> str:
    """Return the digest by which requests are compared: of method, path and body."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def reserve(session: Session, key: str, digest: str, *, tenant: str, hours: float = 24.0) -> str | None:
    """Reserve the key for this transaction, or return the inspection of its first request.

    Args:
        digest: `request_digest` of this request.
        hours: how long the key is kept.

    Returns:
        None when the key is new: make the inspection and call `complete`. Else the id of the first one.

    Raises:
        ProblemError: `idempotency_mismatch`, the key belongs to another request; `idempotency_in_progress`, its first
            request has not been committed yet.
    """
    _wait_briefly(session)
    change(session, delete(IdempotencyRecord).where(_is(key, tenant), IdempotencyRecord.expires_at <= clock.now()))
    if _insert(session, key, digest, tenant, hours):
        return None
    found = session.execute(
        select(IdempotencyRecord.request_digest, IdempotencyRecord.inspection_id).where(_is(key, tenant))
    ).first()
    if found is None or found.inspection_id is None:
        raise _in_progress(key)
    if found.request_digest != digest:
        raise ProblemError("idempotency_mismatch", f"the key {key!r} was used with another body")
    return str(found.inspection_id)


def complete(session: Session, key: str, inspection_id: str, *, tenant: str) -> None:
    """Store the inspection of the reserved key."""
    change(session, update(IdempotencyRecord).where(_is(key, tenant)).values(inspection_id=inspection_id))


def forget_expired(session: Session) -> int:
    """Delete keys past their time; returns how many."""
    return change(session, delete(IdempotencyRecord).where(IdempotencyRecord.expires_at <= clock.now()))


def _is(key: str, tenant: str) -> ColumnElement[bool]:
    return and_(IdempotencyRecord.key == key, IdempotencyRecord.tenant_id == tenant)


def _wait_briefly(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"))


def _insert(session: Session, key: str, digest: str, tenant: str, hours: float) -> bool:
    try:
        return insert_unless_present(
            session,
            IdempotencyRecord,
            key=key,
            tenant_id=tenant,
            request_digest=digest,
            created_at=clock.now(),
            expires_at=clock.now_plus(hours * 3600),
        )
    except OperationalError as error:
        if gave_up_on_lock(error):
            raise _in_progress(key) from None
        raise


def _in_progress(key: str) -> ProblemError:
    return ProblemError("idempotency_in_progress", f"a request with the key {key!r} is in progress", retry_after=1)
