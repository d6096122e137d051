"""`gradinspect serve`, `api`, `maintain` and `migrate`, which the command line loads through entry points."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from service.logs import configure_logs
from service.settings import Settings, SettingsError

CommandT = TypeVar("CommandT", bound=Callable[..., object])

DATA_DIR = click.option("--data-dir", type=click.Path(path_type=Path), help="Everything on disk.")
DATABASE = click.option("--database-url", help="postgresql://… or sqlite:////path; left out: SQLite in --data-dir.")
BROKER = click.option("--broker-url", help="redis://…")
HOST = click.option("--host", help="Address to bind; 127.0.0.1 by default.")
PORT = click.option("--port", type=int, help="Port of the API; 8080 by default, 0 for any free one.")
LOG_LEVEL = click.option("--log-level", help="debug, info, warning or error.")
LOG_FORMAT = click.option("--log-format", help="console or json.")


def options(*chosen: Callable[[CommandT], CommandT]) -> Callable[[CommandT], CommandT]:
    """Combine options into one decorator; the help lists them in this order."""

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(chosen):
            command = option(command)
        return command

    return decorate


@click.command(
    epilog="""\b
Examples:
  gradinspect serve
  gradinspect serve --port 9000 --data-dir ./inspections --workers 4

Every option is also a setting: --port is GRADINSPECT_PORT. With GRADINSPECT_BROKER_URL set, that broker is used and
none is started. Ctrl-C or SIGTERM stops everything."""
)
@options(PORT, HOST, DATA_DIR, DATABASE, BROKER)
@click.option("--workers", "worker_slots", type=int, help="Inspections at once; left out: one for each CPU.")
@options(LOG_LEVEL, LOG_FORMAT)
def serve(**raw: Any) -> None:  # Any: as click read them; Settings validates
    """Run the whole service on this machine: API, worker, maintainer, and a broker where none is configured."""
    from service.processes.broker import BrokerError
    from service.processes.embedded import StartError
    from service.processes.embedded import serve as serve_until_stopped

    with named_errors("serve"):
        settings = configured(raw)
        try:
            serve_until_stopped(settings, announce=_announce)
        except (BrokerError, StartError) as error:
            click.echo(f"gradinspect serve: {error}", err=True)
            sys.exit(1)


@click.command(
    epilog="""\b
Examples:
  gradinspect api --broker-url redis://127.0.0.1:6379/0 --database-url postgresql://user@host/gradinspect

Run `gradinspect migrate` first. Workers and a maintainer run as separate processes."""
)
@options(PORT, HOST, DATA_DIR, DATABASE, BROKER)
@click.option("--listening", type=int, hidden=True, help="Number of an inherited socket to serve on.")
@options(LOG_LEVEL, LOG_FORMAT)
def api(listening: int | None, **raw: Any) -> None:
    """Serve the HTTP API and its pages."""
    with named_errors("api"):
        settings = configured(raw)
        from service.processes.web_server import run_api

        run_api(settings, listening=listening)


@click.command(
    epilog="""\b
Examples:
  gradinspect maintain
  gradinspect maintain --once

Two at once are safe; one is enough."""
)
@options(DATA_DIR, DATABASE, BROKER)
@click.option("--once", is_flag=True, help="One round, then stop.")
@options(LOG_LEVEL, LOG_FORMAT)
def maintain(once: bool, **raw: Any) -> None:
    """Requeue inspections of lost workers, republish unclaimed ones, and remove what is past its retention."""
    from service.db.engine import UNAVAILABLE
    from service.lifecycle.maintenance import Maintainer

    with named_errors("maintain"):
        settings = configured(raw)
        maintainer = Maintainer(settings)
        if not once:
            maintainer.run(_stop_on_signals())
            return
        try:
            done = maintainer.go_round()
        except UNAVAILABLE as error:
            click.echo(f"gradinspect maintain: the database cannot be reached: {str(error).splitlines()[0]}", err=True)
            sys.exit(1)
        finally:
            maintainer.close()
        click.echo(f"{done.requeued} queued again, {done.failed} failed, {done.published} published")


@click.command(
    epilog="""\b
Examples:
  gradinspect migrate
  gradinspect migrate --to 0001
  gradinspect migrate --down-to base     (drops what newer schemas hold)"""
)
@options(DATA_DIR, DATABASE)
@click.option("--to", "revision", default="head", show_default=True, help="Revision to go up to.")
@click.option("--down-to", help="Revision to go back to; `base` empties the database.")
def migrate(revision: str, down_to: str | None, **raw: Any) -> None:
    """Bring the database's schema up to date."""
    from service.db import migrate as migrations
    from service.db.engine import UNAVAILABLE

    with named_errors("migrate"):
        settings = configured(raw)
        try:
            if down_to is not None:
                migrations.downgrade(settings.database_url, down_to)
            else:
                migrations.upgrade(settings.database_url, revision)
            at = migrations.current(settings.database_url)
        except UNAVAILABLE as error:
            click.echo(f"gradinspect migrate: the database cannot be reached: {str(error).splitlines()[0]}", err=True)
            sys.exit(1)
        click.echo(f"{settings.database_name} is at revision {at or 'base'}")


@contextmanager
def named_errors(command: str) -> Iterator[None]:
    """Report a wrong setting in one line with exit status 2."""
    try:
        yield
    except SettingsError as error:
        click.echo(f"gradinspect {command}: {error}", err=True)
        sys.exit(2)


def configured(raw: dict[str, Any]) -> Settings:
    """Return the settings that options and environment give; make the data directory, and set up logging."""
    settings = Settings.from_environment(**raw)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        detail = f"{settings.data_dir} cannot be made: {error.strerror}; choose another"
        raise SettingsError(f"GRADINSPECT_DATA_DIR: {detail}") from None
    configure_logs(log_format=settings.log_format, level=settings.log_level)
    return settings


def _announce(url: str) -> None:
    click.echo(f"\n  gradinspect is ready at {url}\n  API description at {url}/docs; Ctrl-C stops everything.\n")


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
