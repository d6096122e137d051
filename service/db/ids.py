"""Ids: a prefix for the kind of resource and a UUIDv7, so that ids sort by creation and cannot be guessed."""

from __future__ import annotations

import re
from typing import Literal

import uuid_utils

IdPrefix = Literal["mdl", "insp", "pol", "run"]
_ID = re.compile(r"(mdl|insp|pol|run)_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def new_id(prefix: IdPrefix) -> str:
    """Return a new id, `insp_0199…`."""
    return f"{prefix}_{uuid_utils.uuid7()}"


def is_id(prefix: IdPrefix, text: str) -> bool:
    """Check whether `text` has the form of an id with this prefix."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Check whether `text` has the form of an artifact's id."""
    return _DIGEST.fullmatch(text) is not None


def new_token() -> str:
    """Return a lease token: 122 random bits, never sent to a caller."""
    return str(uuid_utils.uuid4())
