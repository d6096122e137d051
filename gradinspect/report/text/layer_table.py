"""The table of layer calls in a terminal: as many columns as fit, the most telling ones first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradinspect.contracts.report.report import Report
from gradinspect.report.text.text_charts import FAULT, bar
from gradinspect.report.words.figures import printable, shape, shortened
from gradinspect.report.words.layer_lines import Gap, LayerLine, layer_lines
from gradinspect.wording import counted, number

BAR_CELLS = 10
WIDEST_NAME, SHORTEST_NAME = 44, 14
_QUIET = "bright_black"
_STYLES = {"fail": "bold red", "warn": "yellow"}


@dataclass(frozen=True)
class _Column:
    """One column: its title on two lines, its place when there is little room (1 stays), and its cells."""

    title: str
    rank: int
    cell: Callable[[LayerLine], str]
    is_number: bool = True


def layer_table(report: Report, *, width: int, most: int) -> RenderableType:
    """Lay out the table.

    Args:
        report: the report; its layers are listed from input to output.
        width: columns of the terminal.
        most: layer calls to list.
    """
    lines = layer_lines(report, most=most)
    rows = [line for line in lines if isinstance(line, LayerLine)]
    low, high = _extremes(report)
    longest = max(cell_len(_gap(line) if isinstance(line, Gap) else _name(line)) for line in lines)
    columns = _that_fit(_columns(low, high), rows, width, longest)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_QUIET)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.is_number else "left", no_wrap=True,
                         vertical="bottom")  # fmt: skip
    for line in lines:
        if isinstance(line, Gap):
            left_out = {"depth": "⋮", "layer": _gap(line)}
            table.add_row(*(Text(left_out.get(column.title, ""), style=_QUIET) for column in columns))
        else:
            table.add_row(*(_cell(column, line) for column in columns))
    return Group(table, *_footnotes(report, lines, columns))


def _cell(column: _Column, line: LayerLine) -> Text:
    style = _STYLES.get(line.flag or "", "") if column.title in ("layer", "") else ""
    if column.title == "signal":
        style = "red" if column.cell(line) == FAULT else "cyan"
    return Text(column.cell(line), style=style)


def _columns(low: float, high: float) -> list[_Column]:
    def signal(line: LayerLine) -> str:
        gain = line.layer.cumulative_backward_gain
        if gain is None or gain <= 0:
            return FAULT
        return bar(1 - (high - math.log10(gain)) / (high - low), BAR_CELLS) or "▏"

    return [
        _Column("", 1, lambda line: {"fail": "✖", "warn": "!"}.get(line.flag or "", ""), is_number=False),
        _Column("depth", 1, lambda line: str(line.layer.depth)),
        _Column("layer", 1, _name, is_number=False),
        _Column("kind", 2, _kind, is_number=False),
        _Column("output", 10, lambda line: shape(line.layer.output_shape), is_number=False),
        _Column("signal", 1, signal, is_number=False),
        _Column("signal\nrms", 4, lambda line: _number(line.layer.signal.rms if line.layer.signal else None)),
        _Column("backward\ngain", 1, lambda line: _number(line.layer.backward_gain)),
        _Column("theory", 3, lambda line: _number(_predicted_gain(line))),
        _Column("cumu-\nlative", 1, lambda line: _number(line.layer.cumulative_backward_gain)),
        _Column("activation\ngain", 5, lambda line: _number(line.layer.activation_gain)),
        _Column("weight\ngain", 6, lambda line: _number(line.layer.weight_gain)),
        _Column("gradient\nnorm", 7, lambda line: _number(line.grad_norm)),
        _Column("forward\ngain", 9, lambda line: _number(line.layer.forward_gain)),
        _Column("notes", 8, lambda line: ", ".join(line.notes), is_number=False),
    ]  # fmt: skip


def _predicted_gain(line: LayerLine) -> float | None:
    """√χ1: the backward gain that mean-field theory gives for these weights and pre-activations."""
    return None if line.layer.predicted_chi1 is None else math.sqrt(max(line.layer.predicted_chi1, 0.0))


def _name(line: LayerLine) -> str:
    name = printable(line.layer.name)
    return name if not line.layer.call else f"{name} (call {line.layer.call})"


def _kind(line: LayerLine) -> str:
    kind = shortened(printable(line.layer.kind), 24)
    nonlinearity = line.layer.nonlinearity
    return kind if nonlinearity is None else f"{kind} → {shortened(printable(nonlinearity), 16)}"


def _gap(gap: Gap) -> str:
    return f"… {gap.count:,} left out"


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _extremes(report: Report) -> tuple[float, float]:
    """The decades between which bars are drawn: at least three, so that a balanced network looks balanced."""
    gains = [row.cumulative_backward_gain for row in report.layers]
    known = [math.log10(gain) for gain in gains if gain is not None and gain > 0]
    high = max(known, default=0.0)
    return min(min(known, default=0.0) - 0.3, high - 3.0), high


def _that_fit(columns: Sequence[_Column], rows: Sequence[LayerLine], width: int, longest: int) -> list[_Column]:
    """The columns that fit, most telling first; the name gives way before a number does."""
    taken: list[_Column] = []
    name = max(min(longest, max(SHORTEST_NAME, width // 4)), len("layer"))
    left = width - name - 2
    for column in sorted(columns, key=lambda column: column.rank):
        cells = [column.cell(row) for row in rows]
        if column.title == "layer":
            taken.append(column)
            continue
        if not any(cell not in ("", "–") for cell in cells):
            continue
        needed = max(map(cell_len, [*column.title.split("\n"), *cells])) + 2
        if column.rank > 1 and needed > left:
            continue
        left -= needed
        taken.append(column)
    room = min(WIDEST_NAME, name + max(left, 0))

    def fitted(line: LayerLine) -> str:
        return shortened(_name(line), room)

    named = [column if column.title != "layer" else _Column("layer", 1, fitted, False) for column in taken]
    order = [column.title for column in columns]
    return sorted(named, key=lambda column: order.index(column.title))


def _footnotes(report: Report, lines: Sequence[LayerLine | Gap], columns: Sequence[_Column]) -> list[RenderableType]:
    notes = []
    left_out = sum(line.count for line in lines if isinstance(line, Gap))
    if left_out:
        shown = len(report.layers) - left_out
        notes.append(
            f"{shown:,} of {counted(len(report.layers), 'layer call')}: the ends, and what stands out between."
        )
    if any(column.title == "signal" for column in columns):
        notes.append(f"signal: the gradient at each output relative to the last one, on a log scale; {FAULT} none.")
    if any(column.title == "theory" for column in columns):
        notes.append("theory: the backward gain √χ1 that mean-field theory gives for these weights in a wide network.")
    return [Text(note, style=_QUIET) for note in notes]
