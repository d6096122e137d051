"""The caller of a request, from its key: `Authorization: Bearer gi_…`, or the cookie of a login on the pages."""

from __future__ import annotations

from contextlib import suppress

from flask import request
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from service.access.sessions import key_of_session
from service.context import LOCAL, SCOPES, Caller, context
from service.db.access import keys
from service.db.access.keys import Used
from service.db.engine import UNAVAILABLE

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def identify() -> Caller | None:
    """Return the caller; None when it presents no key and keys are needed.

    Raises:
        ProblemError: `unauthenticated`, the key is not valid, even where none is needed.
    """
    text = request.headers.get("Authorization")
    if text is not None:
        scheme, _, key = text.partition(" ")
        found = caller_of_key(key.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            detail = "the key is unknown, revoked or expired; it is sent as Authorization: Bearer gi_…"
            raise ProblemError("unauthenticated", detail)
        return found
    # A browser sends the cookie by itself, so the API's changes need the header, which only the caller can set.
    if request.method in SAFE_METHODS or not request.path.startswith("/v1/"):
        key_id = key_of_session()
        if key_id is not None and (found := _caller_of_session(key_id)) is not None:
            return found
    return None if context().settings.needs_keys else LOCAL


def caller_of_key(text: str) -> Caller | None:
    """Return the caller that a key stands for, and record its use; None for a key that is not valid."""
    with context().database.read() as session:
        found = keys.check(session, text)
    return None if found is None else _used(found)


def is_still_valid(caller: Caller, session: Session) -> bool:
    """Check that the key of a caller has not ended since, for answers that last long."""
    return caller.key_id is None or keys.usable(session, caller.key_id) is not None


def _caller_of_session(key_id: str) -> Caller | None:
    with context().database.read() as session:
        found = keys.usable(session, key_id)
    return None if found is None else _used(found, has_session=True)


def _used(found: Used, *, has_session: bool = False) -> Caller:
    record = found.record
    if found.is_use_due:
        with suppress(*UNAVAILABLE), context().database.write() as session:
            keys.write_use(session, record)
    widest = max((scope for scope in SCOPES if scope in record.scopes), key=SCOPES.index)
    return Caller(tenant=record.tenant_id, scope=widest, key_id=record.id, has_session=has_session)
