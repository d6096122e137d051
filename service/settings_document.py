"""docs/settings.md, generated from the settings: `python -m service.settings_document > docs/settings.md`."""

from __future__ import annotations

import sys
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from service.settings import PREFIX, Settings

HEAD = """\
# Settings

This page is generated from `service/settings.py` by `python -m service.settings_document`.

Every process of the service reads these variables, and nothing else of the environment. Each has a default with which
the embedded service works. A name that nearly matches one of these is refused as a misspelling. Lists are separated by
commas. An empty value is the default.

On loopback the API needs no keys, unless `GRADINSPECT_REQUIRE_KEYS=1`. Any other `GRADINSPECT_HOST` is refused until
`gradinspect keys create` has made a key, and callers then need one.

| variable | default | meaning |
|---|---|---|
"""

# Defaults that depend on the machine, in words.
_IN_WORDS = {
    "data_dir": "`$XDG_DATA_HOME/gradinspect` or `~/.local/share/gradinspect`",
    "database_url": "SQLite in the data directory",
    "store_dir": "`store` in the data directory",
    "worker_queues": "all of `queues`",
    "worker_slots": "the CPUs of this process",
}


def document() -> str:
    """Return the whole page."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    default = _IN_WORDS.get(name) or _default(field.default)
    meaning = field.description or name.replace("_", " ").capitalize()
    choices = _choices(field.annotation)
    return f"| `{PREFIX}{name.upper()}` | {default} | {meaning.rstrip('.')}{choices} |\n"


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return "`1`" if value else "`0`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _choices(annotation: Any) -> str:  # Any: a type expression
    origin = get_origin(annotation)
    values = get_args(annotation) if origin is not None else ()
    return f": {', '.join(values)}" if values and all(isinstance(value, str) for value in values) else ""


if __name__ == "__main__":
    sys.stdout.write(document())
