"""A thread that extends one lease and notices when it is lost."""

from __future__ import annotations

import threading
from time import monotonic

import structlog

from service.db import leases
from service.db.engine import UNAVAILABLE, Database
from service.db.leases import Lease

CHECK_SECONDS = 0.5  # chosen: a cancelled computation is killed within a second
MOST_FAILED_BEATS = 3

_log = structlog.get_logger(__name__)


class LeaseKeeper(threading.Thread):
    """Extends the lease every `heartbeat_seconds`, and checks between heartbeats whether it is still held.

    Use it as a context manager around the work, which is dropped when `is_lost`.
    """

    def __init__(self, database: Database, lease: Lease, *, lease_seconds: float, heartbeat_seconds: float) -> None:
        super().__init__(name=f"lease-{lease.inspection_id[-12:]}", daemon=True)
        self._database = database
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._valid_until = monotonic() + lease_seconds
        self._lost = threading.Event()
        self._done = threading.Event()

    def __enter__(self) -> LeaseKeeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def is_lost(self) -> bool:
        """Return whether the lease is lost: to another worker, by a cancellation, or by an unavailable database.

        A database behind a broken network neither answers nor fails for minutes; the lease expires all the same.
        """
        return self._lost.is_set() or monotonic() >= self._valid_until

    def run(self) -> None:
        beat_due = monotonic() + self._heartbeat_seconds
        failed_beats = 0
        while not self._done.wait(max(0.0, min(CHECK_SECONDS, beat_due - monotonic()))):
            is_beat = monotonic() >= beat_due
            try:
                is_held = self._beat() if is_beat else self._check()
                failed_beats = 0
            except UNAVAILABLE as error:
                failed_beats += is_beat
                is_held = failed_beats < MOST_FAILED_BEATS
                detail = (str(error).splitlines() or [type(error).__name__])[0]
                _log.warning("lease_unknown", inspection=self._lease.inspection_id, detail=detail)
            except Exception:  # noqa: BLE001  # without heartbeats the lease expires, so the work must stop
                _log.exception("lease_keeper_failed", inspection=self._lease.inspection_id)
                is_held = False
            if is_beat:
                beat_due = monotonic() + self._heartbeat_seconds
            if not is_held and not self._done.is_set():
                self._lost.set()
                return

    def _beat(self) -> bool:
        requested_at = monotonic()
        with self._database.write() as session:
            is_held = leases.heartbeat(session, self._lease, lease_seconds=self._lease_seconds)
        self._valid_until = requested_at + self._lease_seconds
        return is_held

    def _check(self) -> bool:
        with self._database.read() as session:
            return leases.is_held(session, self._lease)
