"""The maintainer: expire leases, republish unclaimed inspections, remove what is past its retention.

Two of them are safe: each step is one transaction, and on PostgreSQL an advisory lock saves the second one the work. On
SQLite every step is a compare-and-set, and publishing twice is harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import structlog

from service.db import leases, outbox
from service.db.engine import MAINTENANCE_LOCK, UNAVAILABLE, Database, try_lock
from service.lifecycle.dispatch import BrokerUnavailable, Dispatcher
from service.lifecycle.retention import clean_rows, sweep_files
from service.settings import Settings
from service.store.storage import open_store

CLEAN_SECONDS = 60.0  # chosen: what is past its time can wait a minute
SWEEP_SECONDS = 3600.0  # chosen: it reads every name in the store

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Round:
    """What one round did."""

    requeued: int = 0
    failed: int = 0
    published: int = 0


class Maintainer:
    """Repeats its rounds over one database, one broker and one store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database_url, pool_size=2)
        self._store = open_store(settings)
        self._dispatcher = Dispatcher(settings.broker_url)
        self._clean_due = 0.0
        self._sweep_due = monotonic() + CLEAN_SECONDS
        self._complained = False

    def run(self, stop: threading.Event) -> None:
        """Repeat rounds until `stop`, also while the database or the broker is unavailable."""
        while True:
            try:
                self.go_round()
                self._complained = False
            except UNAVAILABLE as error:
                self._complain("database_unavailable", error)
            except Exception:  # noqa: BLE001  # a defect in one round must not end all later ones
                _log.exception("round_failed")
            if stop.wait(self._settings.maintain_interval_seconds):
                break
        self.close()

    def go_round(self) -> Round:
        """Run one round; nothing while another maintainer works.

        Raises:
            any of `UNAVAILABLE`: the database cannot be reached.
        """
        with self._alone() as is_alone:
            if not is_alone:
                return Round()
            expired = self._expire()
            published = self._publish()
            self._clean()
        return Round(requeued=len(expired.requeued), failed=len(expired.failed), published=published)

    def close(self) -> None:
        """Close the connections."""
        self._dispatcher.close()
        self._database.dispose()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the maintainers' lock in a separate transaction, except on SQLite, where it would block writers."""
        if self._database.is_sqlite:
            yield True
            return
        with self._database.write() as session:
            yield try_lock(session, MAINTENANCE_LOCK)

    def _expire(self) -> leases.Expired:
        with self._database.write() as session:
            expired = leases.expire(
                session, max_attempts=self._settings.max_attempts, retry_seconds=self._settings.retry_seconds
            )
        for inspection_id in expired.requeued:
            _log.warning("worker_lost", inspection=inspection_id, then="queued again")
        for inspection_id in expired.failed:
            _log.error("worker_lost", inspection=inspection_id, then="failed")
        return expired

    def _publish(self) -> int:
        """Publish what is due; at the first failure wait for the next round. Return how many were published."""
        published = 0
        with self._database.read() as session:
            due = outbox.due_for_dispatch(session)
        for item in due:
            try:
                self._dispatcher.send(item.inspection_id, queue="gpu" if item.queue == "gpu" else "cpu")
            except BrokerUnavailable as error:
                self._complain("broker_unavailable", error)
                break
            with self._database.write() as session:
                outbox.mark_dispatched(
                    session, item.inspection_id, redispatch_seconds=self._settings.redispatch_seconds
                )
            published += 1
        return published

    def _clean(self) -> None:
        now = monotonic()
        if now >= self._clean_due:
            self._clean_due = now + CLEAN_SECONDS
            cleaned = clean_rows(self._database, self._store, kept_days=self._settings.retention_days)
            if cleaned.marked or cleaned.inspections:
                _log.info("cleaned", hidden=cleaned.marked, removed=cleaned.inspections)
        if now >= self._sweep_due:
            self._sweep_due = now + SWEEP_SECONDS
            orphans = sweep_files(self._database, self._store)
            if orphans:
                _log.info("swept", orphans=orphans)

    def _complain(self, event: str, error: Exception) -> None:
        """Log an outage once, not every round."""
        if not self._complained:
            self._complained = True
            _log.warning(event, detail=(str(error).splitlines() or [""])[0])
