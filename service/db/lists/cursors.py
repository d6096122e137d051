"""Cursors: the end of a page as an opaque, signed text, valid for one list with one sort and one set of filters."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import NamedTuple

from sqlalchemy.orm import Session

from gradinspect.contracts.problems import FieldError, ProblemError
from service.db.engine import CURSOR_KEY
from service.query_strings import MAX_CURSOR_CHARACTERS

SIGNATURE_LETTERS = 32

Key = str | int | float | datetime | None


class Binding(NamedTuple):
    """What the cursors of one list are bound to: the list with its filters and sort, and the installation's key."""

    listed: str
    key: bytes

    def sign(self, text: bytes) -> str:
        """Return the signature of a cursor's text: 128 bits in hexadecimal digits."""
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:32]


def binding(session: Session, *parts: object) -> Binding:
    """Identify a list by its filters and sort, so that its cursors are refused for other lists."""
    listed = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
    return Binding(listed, session.info[CURSOR_KEY])


def encode(bound_to: Binding, keys: Sequence[Key]) -> str:
    """Encode the end of a page.

    Args:
        keys: the sort keys of its last row.
    """
    plain = [key.isoformat() if isinstance(key, datetime) else key for key in keys]
    text = json.dumps([bound_to.listed, *plain], separators=(",", ":")).encode()
    return urlsafe_b64encode(bound_to.sign(text).encode() + text).decode().rstrip("=")


def decode(cursor: str, bound_to: Binding, kinds: Sequence[tuple[type, ...]]) -> list[Key]:
    """Decode the end of a page.

    Args:
        kinds: the types that each sort key may have.

    Raises:
        ProblemError: `invalid_request` at `/query/cursor`: the cursor is malformed, not ours or of another list.
    """
    try:
        if len(cursor) > MAX_CURSOR_CHARACTERS:
            raise ValueError
        padded = cursor + "=" * (-len(cursor) % 4)
        signed = urlsafe_b64decode(padded.encode("ascii"))
        signature, text = signed[:SIGNATURE_LETTERS], signed[SIGNATURE_LETTERS:]
        if not hmac.compare_digest(signature, bound_to.sign(text).encode()):
            raise ValueError
        parts = json.loads(text)
        if not isinstance(parts, list) or len(parts) != len(kinds) + 1 or parts[0] != bound_to.listed:
            raise ValueError
        return [_key(value, allowed) for value, allowed in zip(parts[1:], kinds, strict=True)]
    except (ValueError, RecursionError, OverflowError, binascii.Error):
        detail = "this is no cursor of this list with this sort and these filters; take `next_cursor`, or leave it out"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/query/cursor", detail)]) from None


def _key(value: object, allowed: tuple[type, ...]) -> Key:
    if datetime in allowed and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)  # OverflowError beyond the years 1 and 9999
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ValueError
    if isinstance(value, str) and ("\x00" in value or (not value.isascii() and not _is_utf8(value))):
        raise ValueError
    if isinstance(value, float) and not isfinite(value):
        raise ValueError
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError
    return value if isinstance(value, str | int | float) else None


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
