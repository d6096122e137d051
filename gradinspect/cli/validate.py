"""`gradinspect validate SPEC`."""

from __future__ import annotations

import click

from gradinspect.cli.credentials import key_option


@click.command(
    epilog="\b\nExamples:\n  gradinspect validate spec.json\n  generate-spec | gradinspect validate - --json"
)
@click.argument("spec", metavar="SPEC")
@click.option("--server", metavar="URL", help="Ask this service instead; its version may differ.")
@key_option
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def validate(spec: str, server: str | None, as_json: bool) -> None:
    """Check SPEC, a JSON or YAML file or - for stdin, and list what it would build.

    Exit codes: 0 the spec is right; 2 it is wrong, and the path of each wrong field is printed.
    """
    from gradinspect.cli.files import read_spec
    from gradinspect.cli.outputs import terminal_width
    from gradinspect.contracts.wire.spec_description import describe_spec
    from gradinspect.report.text.spec_text import render_description

    model = read_spec(spec)
    if server is not None:
        from gradinspect.cli.connection import connect

        with connect(server) as client:
            described = client.models.validate(model)
    else:
        described = describe_spec(model)
    if as_json:
        click.echo(described.model_dump_json())
    else:
        click.echo(render_description(described, width=terminal_width()), nl=False)
