"""`gradinspect inspect MODEL`."""

from __future__ import annotations

import click

from gradinspect.cli.credentials import current_key, key_option
from gradinspect.cli.options import InspectionOptions, inspection_options

EXAMPLES = """\b
Examples:
  gradinspect inspect spec.json
  gradinspect inspect spec.json --optimizer sgd,lr=0.1 --lr-scales
  gradinspect inspect model.pt2
  gradinspect inspect train.py:build_model --input-shape 784
  gradinspect inspect model.pt --data batch.safetensors --inputs x --target y
  gradinspect inspect model.pt --input-shape 256 --input-dtype int64 --input-high 50257
  gradinspect inspect model.pt --data batch.safetensors --push https://gradinspect.example --label team=vision
  gradinspect inspect mdl_… --server http://127.0.0.1:8080 --json > report.json

\b
Exit codes: 0 the report is there, whatever its verdict; 2 the call is wrong; 3 the model cannot be
measured or the service does not answer. The exit code of `audit` depends on the verdict."""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("model", metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--html", metavar="FILE", help="Also write the report as a page that stands alone.")
@click.option("--markdown", metavar="FILE", help="Also write the report as markdown.")
@click.option("--all-layers", is_flag=True, help="List every layer call, however many there are.")
@click.option("--push", metavar="URL", help="Measure here, and store the report on this service.")
@key_option
@click.option("--name", metavar="NAME", help="With --push: the model's name there.  [default: the file's]")
@inspection_options
def inspect(
    model: str,
    options: InspectionOptions,
    as_json: bool,
    html: str | None,
    markdown: str | None,
    all_layers: bool,
    push: str | None,
    name: str | None,
) -> None:
    """Inspect MODEL and show the report.

    MODEL is a spec (JSON or YAML), an exported program (.pt2), a TorchScript file, or package.module:function, which is
    imported and called here; with --server also the mdl_… id of a registered model.
    """
    from gradinspect.cli.options import labels_of
    from gradinspect.cli.outputs import terminal_width, wants_color, write_file
    from gradinspect.cli.running import obtain_report, push_report
    from gradinspect.report.json_form import render_json
    from gradinspect.report.text.terminal import MOST_LAYERS, render_terminal

    if push is not None and options.server is not None:
        raise click.UsageError("--push stores what is measured here; with --server the service measures and stores it")
    if push is None and name is not None:
        raise click.UsageError("--name goes with --push")
    report = obtain_report(model, options, takes_labels=push is not None)
    if push is not None:
        policy = options.policy if not options.policy.endswith(".json") else "default"
        page = push_report(
            report, push, key=current_key(push), name=name, labels=labels_of(options.label), policy=policy
        )
        click.echo(page, err=True)
    if html is not None:
        write_file(html, report.to_html())
    if markdown is not None:
        write_file(markdown, report.to_markdown())
    if as_json:
        click.echo(render_json(report), nl=False)
        return
    most = max(len(report.layers), 1) if all_layers else MOST_LAYERS
    color = wants_color()
    text = render_terminal(report, width=terminal_width(), color=color, most_layers=most)
    click.echo(text, nl=False, color=color)
