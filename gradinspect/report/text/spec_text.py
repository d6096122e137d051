"""The layers that a spec would build, for a terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradinspect.contracts.wire.resources import SpecDescription
from gradinspect.report.words.figures import amount, printable, shape, shortened, size
from gradinspect.wording import counted


def render_description(described: SpecDescription, *, width: int = 100) -> str:
    """List the layer calls with their output shapes (without the batch axis) and parameters, and the sums."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("layer", "kind", "output"):
        table.add_column(Text(title), no_wrap=True)
    table.add_column(Text("parameters"), justify="right", no_wrap=True)
    for row in described.layers:
        held = f"{row.parameters:,}" if row.parameters else ""
        table.add_row(
            Text(shortened(printable(row.name), max(width - 50, 16))), Text(printable(row.kind)),
            Text(shape(row.output_shape)), Text(held),
        )  # fmt: skip
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(Text(""))
    console.print(
        Text(
            f"{counted(len(described.layers), 'layer call')}, {amount(described.parameters)} parameters "
            f"({size(described.parameter_bytes)}), output {shape(described.output_shape) or 'a scalar'} per sample, "
            f"{size(described.activation_bytes_per_sample)} kept per sample for the backward pass"
        )
    )
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))
