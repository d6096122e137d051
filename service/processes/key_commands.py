"""`gradinspect keys create`, `list` and `revoke`, which work on the service's database."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from gradinspect.contracts.problems import ProblemError
from service.db import DEFAULT_TENANT
from service.db.engine import Database
from service.processes.commands import DATA_DIR, DATABASE, configured, named_errors, options
from service.settings import Settings, SettingsError

_TENANT = click.option(
    "--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose resources the key opens; an unknown one is new."
)


@click.group(
    epilog="""\b
Examples:
  gradinspect keys create --name ci --scope submit
  gradinspect keys create --name vision-admin --scope admin --tenant vision --expires-days 90
  gradinspect keys list
  gradinspect keys revoke 019a…"""
)
def keys() -> None:
    """Make, list and revoke API keys, at the service's database."""


@keys.command(
    epilog="""\b
Examples:
  gradinspect keys create --name ci --scope submit
  gradinspect keys create --name first --scope admin --output /keys/admin.key --if-none

The key is printed once; the database keeps only its digest."""
)
@click.option("--name", default="", help="For people; left out: who made it, and where.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["read", "submit", "admin"]), default=("read",),
    show_default=True, help="What it may do: submit includes read, admin both.",
)  # fmt: skip
@_TENANT
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), help="Left out: it never ends.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A new file for the key, not stdout.")
@click.option("--if-none", is_flag=True, help="Do nothing when the tenant has a key with these scopes.")
@options(DATA_DIR, DATABASE)
def create(
    name: str, scopes: tuple[str, ...], tenant: str, expires_days: float | None, output: Path | None, if_none: bool,
    **raw: Any,
) -> None:  # fmt: skip
    """Make a key and print it."""
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.wire.resources import KeyRequest
    from service.db.access import keys as rows

    with named_errors("keys create"), _database(raw) as (settings, database):
        try:
            request = from_python(KeyRequest, {"name": name or _whoami(), "scopes": list(scopes), "tenant": tenant})
        except ProblemError as error:
            raise SettingsError(f"--{error.errors[0].pointer.removeprefix('/')}: {error.errors[0].detail}") from None
        with database.write() as session:
            if if_none and rows.has_scopes(session, request.scopes, tenant=tenant):
                click.echo("there is such a key already", err=True)
                return
            expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
            made = rows.insert(session, tenant=tenant, name=request.name, scopes=request.scopes, expires_at=expires_at)
            # Inside the transaction: a key that could not be written is not stored.
            _hand_over(made.text, output)
        _audit(settings, database, "create_key", made.record.id, tenant)
        click.echo(f"{made.record.id}: {', '.join(scopes)} of the tenant {tenant}", err=True)


@keys.command("list", epilog="\b\nExamples:\n  gradinspect keys list")
@options(DATA_DIR, DATABASE)
def list_keys(**raw: Any) -> None:
    """List the keys of all tenants that are not revoked, without their secrets."""
    from gradinspect.report.words.figures import printable
    from service.db.access import keys as rows

    with named_errors("keys list"), _database(raw) as (_, database):
        with database.read() as session:
            found = rows.list_all(session)
        table: list[tuple[str, ...]] = [("id", "tenant", "scopes", "created (UTC)", "expires", "last used", "name")]
        for record in found:
            moments = (_moment(at) for at in (record.created_at, record.expires_at, record.last_used_at))
            table.append((record.id, record.tenant_id, ",".join(record.scopes), *moments, printable(record.name)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@keys.command(epilog="\b\nExamples:\n  gradinspect keys revoke 019a…")
@click.argument("key_id", metavar="ID")
@options(DATA_DIR, DATABASE)
def revoke(key_id: str, **raw: Any) -> None:
    """End the key ID, and its logins, at once and for good."""
    from service.db.access import keys as rows

    with named_errors("keys revoke"), _database(raw) as (settings, database):
        try:
            with database.write() as session:
                record = rows.revoke(session, key_id, tenant=None)
        except ProblemError as error:
            raise SettingsError(f"{error.detail}; `gradinspect keys list` lists them") from None
        _audit(settings, database, "revoke_key", record.id, record.tenant_id)
        click.echo(f"revoked {record.id}", err=True)


@contextmanager
def _database(raw: dict[str, Any]) -> Iterator[tuple[Settings, Database]]:
    """Connect to the service's database; make the schema of one that is empty, as `gradinspect serve` does."""
    from service.db import migrate
    from service.db.engine import UNAVAILABLE

    settings = configured(raw)
    database = Database(settings.database_url, pool_size=1)
    try:
        if migrate.current(settings.database_url) is None:
            migrate.upgrade(settings.database_url)
        yield settings, database
    except UNAVAILABLE as error:
        detail = str(error).splitlines()[0]
        raise SettingsError(f"{settings.database_name} cannot be used: {detail}; is it migrated?") from None
    finally:
        database.dispose()


def _hand_over(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text)
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsError(f"--output: {output} cannot be made: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")


def _audit(settings: Settings, database: Database, action: str, key_id: str, tenant: str) -> None:
    from service.access.auditing import write_act
    from service.db.access.audit import Act

    act = Act(
        tenant=tenant, key_id=None, action=action, object=key_id, address=f"command line of {_whoami()}"[:128],
        status=200, code=None, request_id="-",
    )  # fmt: skip
    write_act(database, settings, act)


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
