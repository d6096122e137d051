"""Logins of the pages: a signed cookie that names a key. Ending the key ends its sessions."""

from __future__ import annotations

import hashlib
import hmac
from time import time

from flask import request
from werkzeug.wrappers import Response

from service.context import context

COOKIE = "gradinspect_session"


def open_session(response: Response, key_id: str) -> None:
    """Set the cookie of a login. Scripts cannot read it, and other sites' requests carry it for links only."""
    settings = context().settings
    seconds = int(3600 * settings.session_hours)
    value = f"{key_id}.{int(time()) + seconds}"
    is_https = request.is_secure or (settings.public_url or "").startswith("https://")
    response.set_cookie(
        COOKIE, f"{value}.{_signature(value)}", max_age=seconds, secure=is_https, httponly=True,
        samesite="Lax",
    )  # fmt: skip


def close_session(response: Response) -> None:
    """Remove the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="Lax")


def key_of_session() -> str | None:
    """Return the id of the key that the request's cookie names; None without a cookie that is signed and current."""
    value, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
    key_id, _, end = value.partition(".")
    if not value or not hmac.compare_digest(_signature(value).encode(), signature.encode("utf-8", "replace")):
        return None
    return key_id if int(end) > time() else None


def _signature(value: str) -> str:
    return hmac.new(context().session_key, value.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
