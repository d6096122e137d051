"""`gradinspect audit MODEL`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from gradinspect.cli.credentials import key_option
from gradinspect.cli.options import InspectionOptions, inspection_options
from gradinspect.contracts.request.policy import DEFAULT_POLICY, FailOn, Policy
from gradinspect.report.formats import FORMATS, FORMATS_BY_NAME
from gradinspect.report.output_format import Circumstances
from gradinspect.rules.audits import AuditResult

EXAMPLES = """\b
Examples:
  gradinspect audit spec.json
  gradinspect audit spec.json --policy release.json --fail-on fail
  gradinspect audit model.pt --data batch.safetensors --junit audit.xml --sarif audit.sarif
  gradinspect audit spec.json --markdown - >> "$GITHUB_STEP_SUMMARY"
  gradinspect audit --show-policy > release.json
  gradinspect audit mdl_… --server http://127.0.0.1:8080 --policy release

\b
Exit codes: 0 no finding that counts; 1 findings; 2 the call is wrong; 3 could not tell: the model
cannot be measured, its backward signal cannot be judged, or the service does not answer."""
EXIT_CODES: dict[AuditResult, int] = {"pass": 0, "findings": 1, "could_not_tell": 3}


def _output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each output format."""
    for form in reversed(FORMATS):
        help_text = f"{form.description} `-` is stdout."
        command = click.option(f"--{form.name}", metavar="FILE", help=help_text)(command)
    return command


@click.command("audit", epilog=EXAMPLES)
@click.argument("model", metavar="MODEL", required=False)
@click.option(
    "--fail-on",
    type=click.Choice(["warn", "fail"]),
    default="warn",
    show_default=True,
    help="The mildest finding that counts.",
)
@_output_options
@click.option("--quiet", is_flag=True, help="Print only the outputs that were asked for.")
@click.option("--show-policy", is_flag=True, help="Print the policy in full, as a file to edit, and exit.")
@key_option
@inspection_options
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    model: str | None,
    options: InspectionOptions,
    fail_on: FailOn,
    quiet: bool,
    show_policy: bool,
    **outputs: str | None,
) -> None:
    """Inspect MODEL and exit with 1 when a policy finds something.

    MODEL is as for `inspect`: a spec, an exported program (.pt2), a TorchScript file, a function, or an mdl_… id.
    """
    from gradinspect.cli.outputs import terminal_width, wants_color, write_file
    from gradinspect.cli.running import obtain_report
    from gradinspect.report.text.terminal import render_terminal
    from gradinspect.rules import audit_result, policy_file

    requested = {name: path for name, path in outputs.items() if path is not None}
    if list(requested.values()).count("-") > 1:
        raise click.UsageError("only one output can go to stdout")
    policy = _policy(options)
    if show_policy:
        if policy is None and options.policy != DEFAULT_POLICY.name:
            raise click.UsageError("--show-policy reads files; GET /v1/policies returns the policies of a service")
        click.echo(policy_file(policy or DEFAULT_POLICY), nl=False)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    report = obtain_report(model, options, policy=policy)
    circumstances = Circumstances(
        settings=report.settings, fail_on=fail_on, artifact=_artifact(model), lines=_lines(model)
    )
    for name, path in requested.items():
        write_file(path, FORMATS_BY_NAME[name].render(report, circumstances))
    result = audit_result(report, fail_on=fail_on)
    if not quiet and "-" not in requested.values():
        click.echo(render_terminal(report, width=terminal_width(), color=wants_color()), nl=False, color=True)
    if not quiet:
        click.echo(_last_line(result, fail_on, report.verdict), err=True)
    ctx.exit(EXIT_CODES[result])


def _policy(options: InspectionOptions) -> Policy | None:
    """Read a policy file; return None for the default, and for one that the service stores by that name or id."""
    from gradinspect.cli.files import read_policy

    if options.policy == DEFAULT_POLICY.name:
        return None if options.server is not None else DEFAULT_POLICY
    if options.server is not None and not Path(options.policy).is_file():
        return None
    return read_policy(options.policy)


def _artifact(model: str) -> str:
    """Return the model's file as code scanning names it: relative to the working directory, with forward slashes."""
    path = Path(model).absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def _lines(model: str) -> dict[str, int]:
    """Return the line of each layer in a spec's file; nothing for other models."""
    from gradinspect.cli.files import read_bytes
    from gradinspect.contracts.spec.source_lines import layer_lines

    if not Path(model).is_file() or (content := read_bytes(model)).lstrip()[:1] != b"{":
        return {}
    return layer_lines(content.decode())


def _last_line(result: AuditResult, fail_on: FailOn, verdict: str) -> str:
    if result == "pass":
        return f"audit passed: verdict {verdict}, no finding that counts with --fail-on {fail_on}"
    if result == "findings":
        return f"audit failed: verdict {verdict}, with --fail-on {fail_on}"
    return "audit could not tell: the backward signal could not be judged"
