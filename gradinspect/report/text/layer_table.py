"""The table of layer calls in a terminal: as many columns as fit, the most important ones first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradinspect.contracts.report.report import Report
from gradinspect.report.columns import Column, columns_with_values
from gradinspect.report.layer_lines import Gap, LayerLine, layer_lines
from gradinspect.report.text.text_charts import FAULT, bar
from gradinspect.report.words.figures import printable, shape, shortened
from gradinspect.wording import counted, number

BAR_CELLS = 8
LONGEST_NAME, SHORTEST_NAME = 44, 14
_BRANCH = "└ "  # in front of the name of a call off the longest path
_QUIET = "bright_black"
_STYLES = {"fail": "bold red", "warn": "yellow"}


@dataclass(frozen=True)
class _Shown:
    """One column of the terminal: its title, its rank when there is little room (1 stays), and its cells."""

    title: str
    rank: int
    cell: Callable[[LayerLine], str]
    is_number: bool = False
    hint: str = ""

    @property
    def heading(self) -> str:
        """Return the title with one word a line."""
        return self.title.replace(" ", "\n")

    def width(self, lines: Sequence[LayerLine]) -> int:
        """Count the cells that the column needs, two of padding included."""
        return max(map(cell_len, [*self.heading.split("\n"), *map(self.cell, lines)])) + 2


def layer_table(report: Report, *, width: int, most: int) -> RenderableType:
    """Lay out the table.

    Args:
        report: the report; its layers are listed from input to output.
        width: columns of the terminal.
        most: layer calls to list.
    """
    lines = layer_lines(report, most=most)
    rows = [line for line in lines if isinstance(line, LayerLine)]
    columns = _that_fit(_columns(report, rows), lines, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_QUIET)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        table.add_column(Text(column.heading), justify=justify, no_wrap=True, vertical="bottom")
    for line in lines:
        if isinstance(line, Gap):
            left_out = {"depth": "⋮", "layer": _gap(line)}
            table.add_row(*(Text(left_out.get(column.title, ""), style=_QUIET) for column in columns))
        else:
            table.add_row(*(_cell(column, line) for column in columns))
    return Group(table, *_footnotes(report, lines, columns))


def _columns(report: Report, rows: Sequence[LayerLine]) -> list[_Shown]:
    low, high = _extremes(report)

    def signal(line: LayerLine) -> str:
        gain = line.layer.cumulative_backward_gain
        if gain is None or gain <= 0:
            return FAULT
        return bar(1 - (high - math.log10(gain)) / (high - low), BAR_CELLS) or "▏"

    return [
        _Shown("", 1, lambda line: {"fail": "✖", "warn": "!"}.get(line.flag or "", "")),
        _Shown("depth", 1, lambda line: str(line.layer.depth), is_number=True),
        _Shown("layer", 1, _name),
        _Shown("kind", 2, _kind),
        _Shown("output", 12, lambda line: shape(line.layer.output_shape)),
        _Shown("signal", 1, signal),
        *(_numeric(column) for column in columns_with_values([row.layer for row in rows])),
        _Shown("notes", 8, lambda line: ", ".join(line.notes)),
    ]


def _numeric(column: Column) -> _Shown:
    def cell(line: LayerLine) -> str:
        value = column.value(line.layer)
        return "–" if value is None else number(value)

    return _Shown(column.title, column.rank, cell, is_number=True, hint=column.hint)


def _extremes(report: Report) -> tuple[float, float]:
    """Return the decades between which bars are drawn: at least three, so that a balanced network looks balanced."""
    gains = [row.cumulative_backward_gain for row in report.layers]
    known = [math.log10(gain) for gain in gains if gain is not None and gain > 0]
    high = max(known, default=0.0)
    return min(min(known, default=0.0) - 0.3, high - 3.0), high


def _that_fit(columns: Sequence[_Shown], lines: Sequence[LayerLine | Gap], width: int) -> list[_Shown]:
    """Choose the columns that fit, most important first; names are cut before a number is left out."""
    rows = [line for line in lines if isinstance(line, LayerLine)]
    longest = max(cell_len(_gap(line) if isinstance(line, Gap) else _name(line)) for line in lines)
    name_width = max(min(longest, max(SHORTEST_NAME, width // 4)), len("layer"))
    left = width - name_width - 2
    chosen: set[str] = {"layer"}
    for column in sorted(columns, key=lambda column: column.rank):
        if column.title == "layer" or not any(column.cell(row) for row in rows):
            continue
        if column.rank == 1 or column.width(rows) <= left:
            left -= column.width(rows)
            chosen.add(column.title)
    room = min(LONGEST_NAME, name_width + max(left, 0))
    named = _Shown("layer", 1, lambda line: shortened(_name(line), room))
    return [named if column.title == "layer" else column for column in columns if column.title in chosen]


def _cell(column: _Shown, line: LayerLine) -> Text:
    style = _STYLES.get(line.flag or "", "") if column.title in ("layer", "") else ""
    if column.title == "signal":
        style = "red" if column.cell(line) == FAULT else "cyan"
    return Text(column.cell(line), style=style)


def _name(line: LayerLine) -> str:
    name = f"{_BRANCH if line.is_branch else ''}{printable(line.layer.name)}"
    return name if not line.layer.call else f"{name} (call {line.layer.call})"


def _kind(line: LayerLine) -> str:
    kind = shortened(printable(line.layer.kind), 24)
    nonlinearity = line.layer.nonlinearity
    return kind if nonlinearity is None else f"{kind} → {shortened(printable(nonlinearity), 16)}"


def _gap(gap: Gap) -> str:
    return f"… {gap.count:,} left out"


def _footnotes(report: Report, lines: Sequence[LayerLine | Gap], columns: Sequence[_Shown]) -> list[RenderableType]:
    notes = []
    left_out = sum(line.count for line in lines if isinstance(line, Gap))
    if left_out:
        shown, total = len(report.layers) - left_out, counted(len(report.layers), "layer call")
        notes.append(f"{shown:,} of {total}: both ends, and the unusual ones between them.")
    notes.append(f"signal: the gradient at each output relative to the last one, on a log scale; {FAULT} none.")
    if any(isinstance(line, LayerLine) and line.is_branch for line in lines):
        notes.append(f"{_BRANCH.strip()} a branch beside the longest path to the loss.")
    notes += [f"theory: {column.hint}." for column in columns if column.title == "theory"]
    return [Text(note, style=_QUIET) for note in notes]
