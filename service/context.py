"""The application's context: settings, connections, the store and the limits on concurrency, made once per process.

`service.api` and `service.web` both read it, so it is below them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Literal, cast, get_args

from flask import current_app, g

from service.db import DEFAULT_TENANT
from service.db.engine import Database
from service.lifecycle.dispatch import Dispatcher
from service.rates import RateLimits
from service.settings import Settings
from service.store.secret_file import derived_key, installation_secret
from service.store.storage import Store, open_store

EXTENSION = "gradinspect"
Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each includes those before it


@dataclass(frozen=True)
class Caller:
    """The caller of a request: a tenant and what it may do there.

    Attributes:
        tenant: owns all that the caller sees.
        scope: the widest scope of its key.
        key_id: of its key; None on loopback, where no key is needed.
        has_session: whether the key came as the cookie of a login.
    """

    tenant: str
    scope: Scope
    key_id: str | None = None
    has_session: bool = False

    def may(self, scope: Scope) -> bool:
        """Check whether the caller has a scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    @property
    def is_operator(self) -> bool:
        """Whether the caller runs the service: an admin of the first tenant, or anyone where no keys are needed."""
        return self.tenant == DEFAULT_TENANT and self.scope == "admin"


LOCAL = Caller(tenant=DEFAULT_TENANT, scope="admin")


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
    rates: RateLimits
    session_key: bytes


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
        rates=RateLimits(settings),
        session_key=derived_key(secret, "sessions"),
    )


def context() -> Context:
    """Return the context of the application that answers the current request."""
    return cast("Context", current_app.extensions[EXTENSION])


def caller() -> Caller:
    """Return the caller of the current request, as `service.access` has established it."""
    return cast("Caller", g.caller)


def tenant() -> str:
    """Return the tenant of the current request."""
    return caller().tenant


def has_session() -> bool:
    """Check whether the caller of the current request has logged in on the pages."""
    known: Caller | None = g.get("caller")
    return known is not None and known.has_session
