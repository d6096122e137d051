"""The header Idempotency-Key."""

from __future__ import annotations

import re

from flask import request

from service.api.http.reading import wrong_header

_KEY = re.compile(r"[!-~]{1,255}")


def idempotency_key() -> str | None:
    """Return the request's Idempotency-Key.

    Raises:
        ProblemError: `invalid_request`, it has other characters or is too long.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and _KEY.fullmatch(key) is None:
        raise wrong_header("Idempotency-Key", "has 1 to 255 visible ASCII characters")
    return key
