"""How often a caller may do something: counted for each key and for each tenant, in Redis or in this process.

The processes of a service count together in its broker. Without a broker, and while it is down, each counts alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import time
from typing import Literal, get_args
from urllib.parse import urlsplit

import structlog
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from gradinspect.contracts.problems import ProblemError
from service.settings import Settings

Rate = Literal["submissions", "uploads", "upload_bytes", "report_reads"]
RATES: tuple[Rate, ...] = get_args(Rate)
Payer = Literal["key", "tenant"]
ANSWER_SECONDS = 0.5  # chosen: a broker in the same data centre answers in a millisecond

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Standing:
    """What is left of one rate in the current window.

    Attributes:
        rate: what is counted.
        payer: whether the key alone or its whole tenant is counted.
        limit: the largest number within a window.
        window_seconds: length of the window.
        remaining: what is left of the limit.
        reset_seconds: until the whole limit is available again.
    """

    rate: Rate
    payer: Payer
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class RateLimits:
    """The rates of all callers of one service.

    Args:
        settings: the limits, and the broker.
    """

    def __init__(self, settings: Settings) -> None:
        per_key: dict[Rate, RateLimitItem] = {
            "submissions": RateLimitItemPerMinute(settings.submissions_per_minute),
            "uploads": RateLimitItemPerMinute(settings.uploads_per_minute),
            "upload_bytes": RateLimitItemPerHour(settings.upload_bytes_per_hour),
            "report_reads": RateLimitItemPerMinute(settings.report_reads_per_minute),
        }
        factor = settings.tenant_rate_factor
        per_tenant = {rate: type(item)(item.amount * factor) for rate, item in per_key.items()}
        self._items: dict[Payer, dict[Rate, RateLimitItem]] = {"key": per_key, "tenant": per_tenant}
        self._alone = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._together = _shared_limiter(settings.broker_url)

    def spend(self, rate: Rate, *, tenant: str, key_id: str, cost: int = 1) -> list[Standing]:
        """Count `cost` against the limits of a key and of its tenant; return what is left of both.

        Raises:
            ProblemError: `too_many_requests`, with the seconds until the limit allows it.
        """
        payers: dict[Payer, str] = {"key": key_id, "tenant": tenant}
        try:
            return self._spend(self._together or self._alone, rate, payers, cost)
        except StorageError as error:
            _log.warning("rates_counted_alone", detail=str(error))
            return self._spend(self._alone, rate, payers, cost)

    def standings(self, *, tenant: str, key_id: str) -> list[Standing]:
        """Return what is left of every rate of a key and of its tenant, without counting anything."""
        payers: dict[Payer, str] = {"key": key_id, "tenant": tenant}
        try:
            return list(self._standings(self._together or self._alone, RATES, payers))
        except StorageError:
            return list(self._standings(self._alone, RATES, payers))

    def _spend(
        self, limiter: SlidingWindowCounterRateLimiter, rate: Rate, payers: dict[Payer, str], cost: int
    ) -> list[Standing]:
        for payer, name in payers.items():
            item = self._items[payer][rate]
            if not limiter.hit(item, payer, name, rate, cost=cost):
                found = list(self._standings(limiter, (rate,), payers))
                raise RateExceededError(next(one for one in found if one.payer == payer), found)
        return list(self._standings(limiter, (rate,), payers))

    def _standings(
        self, limiter: SlidingWindowCounterRateLimiter, rates: tuple[Rate, ...], payers: dict[Payer, str]
    ) -> Iterator[Standing]:
        for rate in rates:
            for payer, name in payers.items():
                item = self._items[payer][rate]
                window = limiter.get_window_stats(item, payer, name, rate)
                yield Standing(
                    rate, payer, limit=item.amount, window_seconds=item.get_expiry(),
                    remaining=max(window.remaining, 0),
                    reset_seconds=min(max(int(window.reset_time - time()) + 1, 0), 2 * item.get_expiry()),
                )  # fmt: skip


class RateExceededError(ProblemError):
    """A caller did something too often.

    Args:
        exceeded: the limit that was reached.
        standings: of the key and of the tenant.
    """

    def __init__(self, exceeded: Standing, standings: list[Standing]) -> None:
        words = exceeded.rate.replace("_", " ")
        per = {60: "a minute", 3600: "an hour"}[exceeded.window_seconds]
        whose = "this key" if exceeded.payer == "key" else "all keys of this tenant together"
        detail = f"the limit is {exceeded.limit} {words} {per} for {whose}"
        super().__init__("too_many_requests", detail, retry_after=max(exceeded.reset_seconds, 1))
        self.standings = standings


def _shared_limiter(broker_url: str | None) -> SlidingWindowCounterRateLimiter | None:
    if broker_url is None:
        return None
    scheme = urlsplit(broker_url).scheme
    url = broker_url.replace("redis+socket://", "redis+unix://", 1) if scheme == "redis+socket" else broker_url
    storage = storage_from_string(
        url, wrap_exceptions=True, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
    )
    return SlidingWindowCounterRateLimiter(storage)
