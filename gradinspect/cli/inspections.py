"""`gradinspect list`, `show`, `open` and `delete`: the inspections that a service stores."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradinspect.cli.credentials import key_option

if TYPE_CHECKING:
    from gradinspect.contracts.wire.resources import InspectionResource

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_COLUMNS = ("inspection", "created (UTC)", "status", "verdict", "model")


def service_option(command: CommandT) -> CommandT:
    """Add --server and --key to a command that works on a service only."""
    option = click.option("--server", envvar="GRADINSPECT_SERVER", metavar="URL", show_envvar=True, required=True,
                          help="The service.")  # fmt: skip
    return option(key_option(command))


@click.command(
    "list",
    epilog="""\b
Examples:
  gradinspect list --server http://127.0.0.1:8080
  gradinspect list --verdict fail --rule vanishing_signal --limit 100
  gradinspect list --label team=vision --json | jq -r .id""",
)
@service_option
@click.option("--status", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]),
              help="Only inspections in this state.")  # fmt: skip
@click.option("--verdict", type=click.Choice(["pass", "warn", "fail", "undetermined"]), help="Only this verdict.")
@click.option("--model", metavar="ID", help="Only inspections of this model.")
@click.option("--name", metavar="NAME", help="Only inspections of models with this name.")
@click.option("--rule", metavar="RULE", help="Only inspections in which this rule found something.")
@click.option("--label", metavar="KEY=VALUE", multiple=True, help="Only inspections with this label.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many to list.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_inspections(server: str, label: tuple[str, ...], limit: int, as_json: bool, **filters: str | None) -> None:
    """List the inspections of a service, newest first."""
    from gradinspect.cli.connection import connect

    with connect(server) as client:
        resources = list(islice(client.inspections.list(**filters, label=list(label), limit=min(limit, 100)), limit))
    if as_json:
        for resource in resources:
            click.echo(resource.model_dump_json())
        return
    _print_table([_COLUMNS, *map(_row, resources)])


@click.command(
    "show",
    epilog="""\b
Examples:
  gradinspect show insp_… --server http://127.0.0.1:8080
  gradinspect show insp_… --json > report.json""",
)
@click.argument("inspection", metavar="ID")
@service_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def show_inspection(inspection: str, server: str, as_json: bool) -> None:
    """Show the report of the inspection ID.

    Exit codes: 0 done, whatever the verdict; 2 there is no such inspection or it has no report; 3 the service does not
    answer.
    """
    from gradinspect.cli.connection import connect
    from gradinspect.cli.outputs import terminal_width, wants_color
    from gradinspect.report.json_form import render_json
    from gradinspect.report.text.terminal import render_terminal

    with connect(server) as client:
        report = client.inspections.report(inspection)
    if as_json:
        click.echo(render_json(report), nl=False)
        return
    color = wants_color()
    click.echo(render_terminal(report, width=terminal_width(), color=color), nl=False, color=color)


@click.command("open", epilog="\b\nExamples:\n  gradinspect open insp_… --server http://127.0.0.1:8080")
@click.argument("inspection", metavar="ID")
@service_option
def open_inspection(inspection: str, server: str) -> None:
    """Open the page of the inspection ID in a browser, and print its address."""
    from gradinspect.cli.connection import connect

    with connect(server) as client:
        page = f"{client.base_url}{client.inspections.get(inspection).links.page}"
    click.echo(page)
    click.launch(page)


@click.command("delete", epilog="\b\nExamples:\n  gradinspect delete insp_… --server http://127.0.0.1:8080")
@click.argument("inspection", metavar="ID")
@service_option
def delete_inspection(inspection: str, server: str) -> None:
    """Delete the inspection ID, with its report.

    Exit codes: 0 done; 2 there is no such inspection or it has not ended; 3 the service does not answer.
    """
    from gradinspect.cli.connection import connect

    with connect(server) as client:
        client.inspections.delete(inspection)
    click.echo(f"deleted {inspection}")


def _row(resource: InspectionResource) -> tuple[str, ...]:
    created = f"{resource.created_at:%Y-%m-%d %H:%M}"
    return resource.id, created, resource.status, resource.verdict or "", resource.model


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from gradinspect.report.words.figures import printable

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{printable(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
