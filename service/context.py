"""The application's context: settings, connections, the store and the limits on concurrency, made once per process.

`service.api` and `service.web` both read it, so it is below them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import cast

from flask import current_app

from service.db import DEFAULT_TENANT
from service.db.engine import Database
from service.lifecycle.dispatch import Dispatcher
from service.settings import Settings
from service.store.secret_file import derived_key, installation_secret
from service.store.storage import Store, open_store

EXTENSION = "gradinspect"


class ConcurrencyLimit:
    """A bounded number of slots in this process. A caller never waits for one: it gets a slot or is refused.

    Args:
        count: slots in all, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._free = BoundedSemaphore(count)

    @contextmanager
    def hold_if_free(self) -> Iterator[bool]:
        """Hold a slot during the block; yields False when all are taken."""
        is_held = self.acquire()
        try:
            yield is_held
        finally:
            if is_held:
                self.release()

    def acquire(self) -> bool:
        """Take a slot, to be given back with `release`; returns False when all are taken."""
        return self._free.acquire(blocking=False)

    def release(self) -> None:
        """Give a slot back."""
        self._free.release()


@dataclass(frozen=True)
class Context:
    """Everything that a view needs apart from its request."""

    settings: Settings
    database: Database
    store: Store
    dispatcher: Dispatcher
    long_polls: ConcurrencyLimit
    event_streams: ConcurrencyLimit
    uploads: ConcurrencyLimit


def make_context(settings: Settings) -> Context:
    """Build the context of one application. Connects to nothing yet."""
    secret = settings.signing_secret.encode() if settings.signing_secret else installation_secret(settings.data_dir)
    cursor_key = derived_key(secret, "cursors")
    return Context(
        settings=settings,
        database=Database(settings.database_url, pool_size=settings.database_pool_size, cursor_key=cursor_key),
        store=open_store(settings),
        dispatcher=Dispatcher(settings.broker_url),
        long_polls=ConcurrencyLimit(settings.max_long_polls),
        event_streams=ConcurrencyLimit(max(1, settings.max_long_polls // 2)),
        uploads=ConcurrencyLimit(settings.max_concurrent_uploads),
    )


def context() -> Context:
    """Return the context of the application that answers the current request."""
    return cast("Context", current_app.extensions[EXTENSION])


def tenant() -> str:
    """Return the tenant of the current request; without API keys there is one tenant."""
    return DEFAULT_TENANT
