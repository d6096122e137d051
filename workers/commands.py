"""`gradinspect worker`, which the command line loads through an entry point."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import click

from service.logs import configure_logs
from service.settings import Settings, SettingsError


@click.command(
    epilog="""\b
Examples:
  gradinspect worker --broker-url redis://127.0.0.1:6379/0
  gradinspect worker --queues gpu --slots 1

Every option is also a setting: --slots is GRADINSPECT_WORKER_SLOTS. SIGTERM lets running inspections end for
--stop-seconds, then gives them back to the queue."""
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Everything on disk; shared with the API.")
@click.option("--database-url", help="postgresql://… or sqlite:////path; left out: SQLite in the data directory.")
@click.option("--broker-url", help="redis://…, the same as the API's.")
@click.option("--queues", "worker_queues", help="Which queues to serve: cpu, gpu or cpu,gpu.")
@click.option("--slots", "worker_slots", type=int, help="Inspections at once; left out: one for each CPU.")
@click.option("--stop-seconds", type=float, help="How long running inspections may go on after SIGTERM.")
@click.option(
    "--check", is_flag=True, help="Start nothing: exit with 0 if a worker of this host is alive, else with 1."
)
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-format", help="console or json.")
def worker(*, check: bool, **options: Any) -> None:  # Any: as click read them; Settings validates
    """Take inspections from the queue and run each in a separate process."""
    from workers.supervisor.fork_client import ForkServerError
    from workers.supervisor.running import run_worker

    try:
        settings = Settings.from_environment(**options)
        if check:
            sys.exit(0 if _is_alive(settings) else 1)
        configure_logs(log_format=settings.log_format, level=settings.log_level)
        run_worker(settings)
    except SettingsError as error:
        click.echo(f"gradinspect worker: {error}", err=True)
        sys.exit(2)
    except ForkServerError as error:
        click.echo(f"gradinspect worker: {error}. Is the extra gradinspect[engine] installed?", err=True)
        sys.exit(1)


def _is_alive(settings: Settings) -> bool:
    """Return whether a worker of this host (in a container: its own) has written lately that it is alive."""
    from service.db import workers
    from service.db.engine import UNAVAILABLE, Database

    database = Database(settings.database_url, pool_size=1)
    try:
        with database.read() as session:
            status = workers.living(session)
    except UNAVAILABLE:
        return False
    finally:
        database.dispose()
    return status is not None and any(one.name.startswith(f"{socket.gethostname()}-") for one in status.workers)
