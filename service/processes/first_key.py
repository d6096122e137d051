"""The rule that a service which other machines can reach starts only when it has a key."""

from __future__ import annotations

import structlog

from service.db.access import keys
from service.db.engine import UNAVAILABLE, Database
from service.settings import PREFIX, Settings, SettingsError

_log = structlog.get_logger(__name__)


def refuse_without_keys(settings: Settings, database: Database) -> None:
    """Refuse to start a service that needs keys and has none.

    Without its database the service starts: until it is back, every request gets 503.

    Raises:
        SettingsError: no key has been made, or all have ended.
    """
    if not settings.needs_keys:
        return
    try:
        with database.read() as session:
            has_key = keys.any_usable(session)
    except UNAVAILABLE as error:
        _log.warning("keys_not_checked", detail=(str(error).splitlines() or [""])[0])
        return
    if not has_key:
        raise SettingsError(
            f"{PREFIX}HOST={settings.host} needs keys and {settings.database_name} has none; make the first one with "
            "`gradinspect keys create --scope admin`, or bind to 127.0.0.1"
        )
