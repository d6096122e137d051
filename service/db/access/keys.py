"""Rows of API keys: made, checked, listed, revoked.

A key is `gi_<id>_<secret>`. Only the SHA-256 of the secret is stored: the secret has 256 random bits, so its digest
cannot be reversed by trying, and needs no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import uuid_utils
from sqlalchemy import ColumnElement, and_, exists, inspect, or_, select, update
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from service.db import clock
from service.db.access.tables import KeyRecord
from service.db.lists.pages import Listing, page_of
from service.db.statements import change
from service.query_strings import PageQuery

SECRET_BYTES = 32
USE_SECONDS = 60.0  # the last use is written at most so often
_KEY = re.compile(r"gi_([0-9a-f]{32})_([0-9a-f]{64})")
_NO_DIGEST = "0" * 64  # compared when no key has the id, so that the time of an answer does not tell


class NewKey(NamedTuple):
    """A key that was just made; `text` is shown once and never again."""

    text: str
    record: KeyRecord


def insert(
    session: Session, *, tenant: str, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> NewKey:
    """Make a key.

    Args:
        tenant: whose resources it opens.
        name: for people.
        scopes: what it may do.
        expires_at: when it ends; None never.
    """
    secret = secrets.token_hex(SECRET_BYTES)
    record = KeyRecord(
        id=uuid_utils.uuid7().hex, tenant_id=tenant, name=name, secret_digest=_digest(secret), scopes=list(scopes),
        expires_at=expires_at,
    )  # fmt: skip
    session.add(record)
    session.flush()
    session.refresh(record)
    return NewKey(f"gi_{record.id}_{secret}", record)


class Used(NamedTuple):
    """A valid key, and whether its last use should be written."""

    record: KeyRecord
    is_use_due: bool


def check(session: Session, text: str) -> Used | None:
    """Return the key of a text; None unless the id is known, the secret right, and the key neither revoked nor expired.

    Compares digests in constant time.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    found = usable(session, match[1])
    known = _NO_DIGEST if found is None else found.record.secret_digest
    return found if hmac.compare_digest(_digest(match[2]), known) else None


def usable(session: Session, key_id: str) -> Used | None:
    """Return a key by its id; None when it is unknown, revoked or expired."""
    found = session.execute(select(KeyRecord, _is_use_due()).where(KeyRecord.id == key_id, _is_usable())).first()
    return None if found is None else Used(found[0], bool(found[1]))


def write_use(session: Session, record: KeyRecord) -> bool:
    """Write that a key was used now; False when another request has written it within the minute."""
    mine = and_(KeyRecord.id == record.id, KeyRecord.tenant_id == record.tenant_id, _is_use_due())
    return change(session, update(KeyRecord).where(mine).values(last_used_at=clock.now())) == 1


def any_usable(session: Session) -> bool:
    """Check whether any tenant has a key that is neither revoked nor expired; False in a database without a schema."""
    is_there = inspect(session.connection()).has_table(KeyRecord.__tablename__)
    return is_there and bool(session.scalar(select(exists().where(_is_usable()))))


def has_scopes(session: Session, scopes: Sequence[str], *, tenant: str) -> bool:
    """Check whether a tenant has a usable key with these scopes."""
    granted = session.scalars(select(KeyRecord.scopes).where(KeyRecord.tenant_id == tenant, _is_usable()))
    return any(set(scopes) <= set(found) for found in granted)


def revoke(session: Session, key_id: str, *, tenant: str | None) -> KeyRecord:
    """End a key for good.

    Args:
        session: a writing transaction.
        key_id: of the key.
        tenant: its tenant; None, for an operator at the database, any.

    Raises:
        ProblemError: `not_found`, also for a key of another tenant.
    """
    mine = and_(KeyRecord.id == key_id, KeyRecord.revoked_at.is_(None))
    if tenant is not None:
        mine = and_(mine, KeyRecord.tenant_id == tenant)
    if "\x00" in key_id or change(session, update(KeyRecord).where(mine).values(revoked_at=clock.now())) == 0:
        raise ProblemError("not_found", f"there is no key {key_id}")
    return session.scalars(select(KeyRecord).where(KeyRecord.id == key_id)).one()


def page(session: Session, query: PageQuery, *, tenant: str) -> Listing[KeyRecord]:
    """Read a page of the keys of one tenant that are not revoked, newest first.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    rows = select(KeyRecord).where(KeyRecord.tenant_id == tenant, KeyRecord.revoked_at.is_(None))
    return page_of(session, rows, KeyRecord, query, tenant)


def list_all(session: Session) -> Sequence[KeyRecord]:
    """Read the keys of all tenants that are not revoked, newest first."""
    query = select(KeyRecord).where(KeyRecord.revoked_at.is_(None))
    return session.scalars(query.order_by(KeyRecord.created_at.desc(), KeyRecord.id.desc())).all()


def _is_usable() -> ColumnElement[bool]:
    is_current = or_(KeyRecord.expires_at.is_(None), KeyRecord.expires_at > clock.now())
    return and_(KeyRecord.revoked_at.is_(None), is_current)


def _is_use_due() -> ColumnElement[bool]:
    return or_(KeyRecord.last_used_at.is_(None), KeyRecord.last_used_at < clock.now_plus(-USE_SECONDS))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
