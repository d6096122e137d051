"""Cursors: the end of a page as an opaque text, valid for one list with one sort and one set of filters."""

from __future__ import annotations

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from math import isfinite

from gradinspect.contracts.problems import FieldError, ProblemError
from service.query_strings import MAX_CURSOR_CHARACTERS

Key = str | int | float | datetime | None


def binding(*parts: object) -> str:
    """Identify a list by its filters and sort, so that its cursors are refused for other lists."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def encode(bound_to: str, keys: Sequence[Key]) -> str:
    """Encode the end of a page.

    Args:
        keys: the sort keys of its last row.
    """
    plain = [key.isoformat() if isinstance(key, datetime) else key for key in keys]
    return urlsafe_b64encode(json.dumps([bound_to, *plain], separators=(",", ":")).encode()).decode().rstrip("=")


def decode(cursor: str, bound_to: str, kinds: Sequence[tuple[type, ...]]) -> list[Key]:
    """Decode the end of a page.

    Args:
        kinds: the types that each sort key may have.

    Raises:
        ProblemError: `invalid_request` at `/query/cursor`: the cursor is malformed or of another list.
    """
    try:
        if len(cursor) > MAX_CURSOR_CHARACTERS:
            raise ValueError
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = json.loads(urlsafe_b64decode(padded.encode("ascii")))
        if not isinstance(parts, list) or len(parts) != len(kinds) + 1 or parts[0] != bound_to:
            raise ValueError
        return [_key(value, allowed) for value, allowed in zip(parts[1:], kinds, strict=True)]
    except (ValueError, RecursionError, binascii.Error):
        detail = "this is no cursor of this list with this sort and these filters; take `next_cursor`, or leave it out"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/query/cursor", detail)]) from None


def _key(value: object, allowed: tuple[type, ...]) -> Key:
    if datetime in allowed and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ValueError
    if isinstance(value, str) and "\x00" in value:
        raise ValueError
    if isinstance(value, float) and not isfinite(value):
        raise ValueError
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError
    return value if isinstance(value, str | int | float) else None
