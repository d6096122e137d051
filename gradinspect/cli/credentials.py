"""The API key for a service: of --key, of its variable, or of the file of profiles."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gradinspect.cli.failures import WRONG_CALL, Failure

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_KEY = "gradinspect.key"


def key_option(command: CommandT) -> CommandT:
    """Add --key, which `current_key` reads."""
    option = click.option(
        "--key", envvar="GRADINSPECT_KEY", metavar="KEY", show_envvar=True, expose_value=False, callback=_remember,
        help="API key of the service; left out: the profile's.",
    )  # fmt: skip
    return option(command)


def _remember(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Keep the value of --key for `current_key`."""
    context.meta[_KEY] = value
    return value


def current_key(server: str) -> str | None:
    """Return the key for a service: the command's --key, or else the profile's.

    Raises:
        Failure: the file of profiles cannot be used.
    """
    context = click.get_current_context(silent=True)
    key: str | None = context.meta.get(_KEY) if context is not None else None
    return key or profile_key(server)


def profile_key(server: str) -> str | None:
    """Return the key that the file of profiles has for a service.

    The file is `gradinspect/profiles.toml` in `$XDG_CONFIG_HOME` or `~/.config`, with a table for each service:

        [production]
        server = "https://gradinspect.example"
        key = "gi_…"

    Raises:
        Failure: other users can read the file, or it is not TOML.
    """
    folder = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    path = Path(folder) / "gradinspect" / "profiles.toml"
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Failure(f"{path} holds keys and is open to other users; run chmod 600", exit_code=WRONG_CALL)
            profiles = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return None
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}", exit_code=WRONG_CALL) from None
    for profile in profiles.values():
        if isinstance(profile, dict) and str(profile.get("server", "")).rstrip("/") == server.rstrip("/"):
            return str(profile["key"]) if "key" in profile else None
    return None
