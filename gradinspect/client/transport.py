"""A transport that retries requests where that is safe and may help.

Safe are idempotent methods (GET, HEAD, PUT, DELETE), requests with an Idempotency-Key, and requests that never arrived.
Retried are failed connections, 429, 502, 503, 504, and a key whose first request is still in progress. Pauses grow
exponentially with jitter, or follow Retry-After.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
RETRIED = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.2  # chosen: a restarting server is back in about a second
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0  # chosen: a longer pause is the caller's decision


class RetryingTransport(httpx.BaseTransport):
    """Retries around another transport.

    Args:
        wrapped: sends each attempt.
        attempts: their largest number, with the first.
        sleep: pauses for a number of seconds.
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
        """Send a request, and retry it while that is safe and may help."""
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
        """Close the wrapped transport."""
        self._wrapped.close()

    def _pause_after(self, request: httpx.Request, response: httpx.Response, attempt: int) -> float | None:
        """Return the seconds until the next attempt; None to return this answer."""
        status = response.status_code
        if status == 409 and "Idempotency-Key" in request.headers:
            response.read()
            if b"idempotency_in_progress" not in response.content:
                return None
        elif status not in RETRIED or not (status == 429 or _is_safe(request)):
            return None
        requested = _retry_after(response)
        if requested is None:
            return self._pause(attempt)
        # Jitter only delays: not before the requested moment, and not all clients at once.
        return None if requested > LONGEST_RETRY_AFTER_SECONDS else requested + FIRST_PAUSE_SECONDS * self._jitter()

    def _pause(self, attempt: int) -> float:
        """Return a pause that doubles with each attempt, times a random factor in [0.5, 1)."""
        longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
        return float(longest * (1 + self._jitter()) / 2)


def _is_safe(request: httpx.Request) -> bool:
    return request.method in IDEMPOTENT or "Idempotency-Key" in request.headers


def _never_arrived(error: httpx.TransportError) -> bool:
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _retry_after(response: httpx.Response) -> float | None:
    """Parse Retry-After, a number of seconds or a date."""
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
