"""A transport that tries again, where trying again is safe and the service says that it may help.

Safe are methods that change nothing twice (GET, HEAD, PUT, DELETE), anything with an Idempotency-Key, and whatever
never arrived. Tried again is what found no connection, 429, 502, 503, 504, and a key whose first request is still in
progress. Pauses grow exponentially with jitter, or are what Retry-After says.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
PASSING = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.2  # chosen: a restarting server is back in about a second
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0  # chosen: who is told to wait longer would rather know


class RetryingTransport(httpx.BaseTransport):
    """Tries again around another transport.

    Args:
        wrapped: does the work.
        attempts: in all, the first one included.
        sleep: waits so many seconds.
        jitter: draws from [0, 1).
    """

    def __init__(
        self,
        wrapped: httpx.BaseTransport,
        *,
        attempts: int = 5,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._wrapped, self._attempts, self._sleep, self._jitter = wrapped, max(attempts, 1), sleep, jitter

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and again while that is safe and may help."""
        for attempt in range(1, self._attempts + 1):
            is_last = attempt == self._attempts
            try:
                response = self._wrapped.handle_request(request)
            except httpx.TransportError as error:
                if is_last or not (_never_arrived(error) or _is_safe(request)):
                    raise
                self._sleep(self._pause(attempt))
                continue
            pause = None if is_last else self._pause_after(request, response, attempt)
            if pause is None:
                return response
            response.close()
            self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the transport inside."""
        self._wrapped.close()

    def _pause_after(self, request: httpx.Request, response: httpx.Response, attempt: int) -> float | None:
        """Seconds until the next attempt; None when this answer is the one to give."""
        status = response.status_code
        if status == 409 and "Idempotency-Key" in request.headers:
            response.read()
            if b"idempotency_in_progress" not in response.content:
                return None
        elif status not in PASSING or not (status == 429 or _is_safe(request)):
            return None
        asked = _retry_after(response)
        if asked is None:
            return self._pause(attempt)
        # Never before the moment that was asked for, and not all at that same moment.
        return None if asked > LONGEST_RETRY_AFTER_SECONDS else asked + FIRST_PAUSE_SECONDS * self._jitter()

    def _pause(self, attempt: int) -> float:
        """Between half and all of a pause that doubles."""
        longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
        return float(longest * (1 + self._jitter()) / 2)


def _is_safe(request: httpx.Request) -> bool:
    return request.method in IDEMPOTENT or "Idempotency-Key" in request.headers


def _never_arrived(error: httpx.TransportError) -> bool:
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
