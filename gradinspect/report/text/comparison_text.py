"""A comparison of two reports, for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradinspect.contracts.report.comparison import Change, ComparedInspection, Comparison, LayerComparison
from gradinspect.report.words.figures import printable, shortened
from gradinspect.wording import counted, number

MOST_LAYERS = 20  # chosen: the largest changes; the JSON has all
MOST_NAMES = 10
CHANGES: dict[Change, tuple[str, str]] = {
    "better": ("✔ better", "bold green"), "worse": ("✖ worse", "bold red"),
    "no_clear_change": ("= no clear change", "bold"), "undetermined": ("? undetermined", "bold blue"),
}  # fmt: skip
_QUIET = "bright_black"
_NUMBERS = ("signal_rms", "backward_gain", "cumulative_backward_gain", "forward_gain", "grad_norm")


def render_comparison(comparison: Comparison, *, width: int = 100, color: bool = False) -> str:
    """Write a comparison for a terminal.

    Args:
        comparison: from base to head.
        width: columns.
        color: use ANSI colours.
    """
    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 60), force_terminal=color, color_system="standard" if color else None,
        no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    for part in _parts(comparison, max(width, 60)):
        console.print(Padding(part, (0, 1)))
    lines = out.getvalue().split("\n")
    return "\n".join(lines if color else [line.rstrip() for line in lines])


def _parts(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    yield Text("")
    yield Text.assemble(CHANGES[comparison.change], "  ", _side(comparison.base), " → ", _side(comparison.head))
    yield Text("")
    yield Text(printable(comparison.message))
    for note in comparison.notes:
        yield Text(f"Note: {printable(note)}", style=_QUIET)
    yield from _findings(comparison)
    yield from _rules(comparison)
    yield from _layers(comparison, width)
    for title, rows in (("only in the base", comparison.only_base), ("only in the head", comparison.only_head)):
        if rows:
            names = ", ".join(shortened(printable(row.name), 40) for row in rows[:MOST_NAMES])
            more = f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else ""
            yield Text("")
            yield Text(f"{counted(len(rows), 'layer call')} {title}: {names}{more}")


def _side(side: ComparedInspection) -> str:
    name = side.model.name or side.inspection or side.model.kind
    return f"{shortened(printable(name), 40)} ({side.verdict})"


def _findings(comparison: Comparison) -> Iterator[RenderableType]:
    changes = comparison.findings
    if not (changes.new or changes.fixed or changes.still):
        return
    yield Text("")
    yield Text("Findings", style="bold underline")
    for finding in changes.new:
        yield Text.assemble((f"+ new    {finding.severity:<5}", "bold red"), f" {printable(finding.message)}")
    for finding in changes.fixed:
        yield Text.assemble((f"- fixed  {finding.severity:<5}", "bold green"), f" {printable(finding.message)}")
    for pair in changes.still:
        yield Text.assemble((f"= still  {pair.head.severity:<5}", _QUIET), f" {printable(pair.head.message)}")


def _rules(comparison: Comparison) -> Iterator[RenderableType]:
    changed = [rule for rule in comparison.rules if rule.change in ("better", "worse")]
    if not changed:
        return
    yield Text("")
    yield Text("Rules", style="bold underline")
    table = _table(("", "rule", "base", "head", "why"))
    for rule in changed:
        table.add_row(
            Text(*CHANGES[rule.change]), Text(printable(rule.rule)), Text(_valued(rule.base, rule.base_value)),
            Text(_valued(rule.head, rule.head_value)), Text(printable(rule.reason)),
        )  # fmt: skip
    yield table


def _layers(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    moved = [row for row in comparison.layers if _distance(row) > 0]
    if not comparison.layers:
        return
    yield Text("")
    yield Text("Layers", style="bold underline")
    if not moved:
        layers = counted(len(comparison.layers), "layer call")
        yield Text(f"No number of {layers} changed by more than the variation over seeds.")
        return
    shown = sorted(moved, key=lambda row: -_distance(row))[:MOST_LAYERS]
    positions = {id(row): index for index, row in enumerate(comparison.layers)}
    table = _table(("layer", "signal rms", "backward gain", "cumulative", "forward gain", "gradient norm"))
    for row in sorted(shown, key=lambda row: positions[id(row)]):
        name = printable(row.head if row.base == row.head else f"{row.base} → {row.head}")
        table.add_row(Text(shortened(name, max(width - 72, 16))), *(Text(_ratio(row, field)) for field in _NUMBERS))
    yield table
    noise = "" if comparison.noise == "seeds" else "; the variation over seeds is not known"
    left_out = len(moved) - len(shown)
    more = f" {left_out:,} more changed." if left_out else ""
    yield Text(
        f"× head over base, of {counted(len(moved), 'layer call')} that changed among "
        f"{len(comparison.layers):,}{noise}.{more}",
        style=_QUIET,
    )


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_QUIET)
    for title in head:
        table.add_column(Text(title), overflow="fold")
    return table


def _valued(outcome: str, value: float | None) -> str:
    words = outcome.replace("_", " ")
    return words if value is None else f"{words} ({number(value)})"


def _distance(row: LayerComparison) -> float:
    """Return the largest change of a layer call in powers of two, ignoring what the variation over seeds explains."""
    ratios = (getattr(row, field) for field in _NUMBERS)
    return max(
        (abs(ratio.log2_ratio) for ratio in ratios
         if ratio.log2_ratio is not None and ratio.difference in ("larger", "smaller")),
        default=0.0,
    )  # fmt: skip


def _ratio(row: LayerComparison, field: str) -> str:
    ratio = getattr(row, field)
    if ratio.log2_ratio is None:
        return "–"
    if ratio.difference in ("same", "within_noise"):
        return "="
    return f"× {number(2 ** max(-1000.0, min(ratio.log2_ratio, 1000.0)))}"
