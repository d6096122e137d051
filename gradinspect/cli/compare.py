"""`gradinspect compare BASE HEAD`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from gradinspect.cli.credentials import key_option

if TYPE_CHECKING:
    from gradinspect.contracts.report.report import Report

EXAMPLES = """\b
Examples:
  gradinspect inspect old.json --json > base.json
  gradinspect inspect new.json --json > head.json
  gradinspect compare base.json head.json
  gradinspect compare base.json head.json --fail-if-worse
  gradinspect compare insp_… insp_… --server http://127.0.0.1:8080

\b
Exit codes: 0 done; with --fail-if-worse 1 when the head is worse, 3 when that cannot be determined;
2 the call is wrong; 3 the service does not answer."""
_INSPECTION_ID = re.compile(r"insp_[0-9a-f-]{36}")


@click.command(epilog=EXAMPLES)
@click.argument("base", metavar="BASE")
@click.argument("head", metavar="HEAD")
@click.option("--server", envvar="GRADINSPECT_SERVER", metavar="URL", show_envvar=True,
              help="The service that has the reports of insp_… ids.")  # fmt: skip
@key_option
@click.option("--policy", metavar="FILE", help="Judge both by this policy first.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@click.option("--fail-if-worse", is_flag=True, help="Exit with 1 when the head is worse than the base.")
def compare(base: str, head: str, server: str | None, policy: str | None, as_json: bool, fail_if_worse: bool) -> None:
    """Say what changed from BASE to HEAD.

    Each is a file that `inspect --json` wrote, or with --server the insp_… id of an inspection.
    """
    from gradinspect.cli.files import read_policy
    from gradinspect.cli.outputs import terminal_width, wants_color
    from gradinspect.report.text.comparison_text import render_comparison
    from gradinspect.rules.compare import compare as compare_reports

    rules = read_policy(policy) if policy is not None else None
    comparison = compare_reports(_report(base, server), _report(head, server), policy=rules)
    if as_json:
        click.echo(comparison.model_dump_json())
    else:
        color = wants_color()
        click.echo(render_comparison(comparison, width=terminal_width(), color=color), nl=False, color=color)
    if fail_if_worse and comparison.change in ("worse", "undetermined"):
        raise click.exceptions.Exit(1 if comparison.change == "worse" else 3)


def _report(name: str, server: str | None) -> Report:
    from gradinspect.cli.files import read_report

    if not _INSPECTION_ID.fullmatch(name):
        return read_report(name)
    if server is None:
        raise click.UsageError(f"{name} is on a service: give --server URL")
    from gradinspect.cli.connection import connect

    with connect(server) as client:
        return client.inspections.report(name)
