"""What views work with: the settings and the shared infrastructure, made once for each application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app

from service.api.http.waiting import Places
from service.db import DEFAULT_TENANT
from service.db.engine import Database
from service.lifecycle.dispatch import Dispatcher
from service.settings import Settings
from service.store.storage import Store

EXTENSION = "gradinspect"


@dataclass(frozen=True)
class Context:
    """Everything that a view may need besides its request."""

    settings: Settings
    database: Database
    store: Store
    dispatcher: Dispatcher
    long_polls: Places
    event_streams: Places
    uploads: Places


def make_context(settings: Settings) -> Context:
    """Make what views work with. Connects to nothing yet."""
    return Context(
        settings=settings,
        database=Database(settings.database_url, pool_size=settings.database_pool_size),
        store=Store(settings.store_dir),
        dispatcher=Dispatcher(settings.broker_url),
        long_polls=Places(settings.max_long_polls),
        event_streams=Places(max(1, settings.max_long_polls // 2)),
        uploads=Places(settings.max_concurrent_uploads),
    )


def context() -> Context:
    """The context of the application that answers the present request."""
    return cast("Context", current_app.extensions[EXTENSION])


def tenant() -> str:
    """Whose resources the present request may see; until there are API keys, everybody is the same tenant."""
    return DEFAULT_TENANT
