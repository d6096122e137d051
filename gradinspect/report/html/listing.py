"""The layer calls that an HTML report lists: their selection, order, and the links to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.report import Report
from gradinspect.report.layer_lines import Gap, LayerLine, layer_lines, sorted_lines, worst_lines

MOST_ROWS = 2_000  # chosen: beyond it a browser is slow; the JSON and the CSV have all
WORST_ROWS = 25


@dataclass(frozen=True)
class Listing:
    """The rows of the table of layer calls.

    Attributes:
        lines: the rows, in order.
        total: layer calls of the report.
        sort: the column that orders the rows, as in `sorted_lines`; `depth` is the network's order.
        choice: the rows that are listed, in an address; None where rows cannot be sorted or chosen.
    """

    lines: Sequence[LayerLine | Gap]
    total: int
    sort: str = "depth"
    choice: str | None = None

    @property
    def count(self) -> int:
        """Count the layer calls that are listed."""
        return sum(isinstance(line, LayerLine) for line in self.lines)

    @property
    def is_long(self) -> bool:
        """Return whether there are more layer calls than the worst ones."""
        return self.total > WORST_ROWS

    def address(self, depth: int | None, prefix: str) -> str | None:
        """Return the address of a layer call's row; None where the row cannot be reached."""
        if depth is None:
            return None
        if any(isinstance(line, LayerLine) and line.layer.depth == depth for line in self.lines):
            return f"#{prefix}call-{depth}"
        return f"?layers=all#call-{depth}" if self.choice is not None else None


def whole_listing(report: Report, *, most: int = MOST_ROWS) -> Listing:
    """List all layer calls, or of a longer network both ends and the unusual ones between them."""
    return Listing(layer_lines(report, most=most), len(report.layers))


def sortable_listing(report: Report, *, choice: str, sort: str) -> Listing:
    """List layer calls on a page whose address chooses and orders them.

    Args:
        report: the report.
        choice: `all`; anything else is the worst ones.
        sort: a column's name, with a minus for the largest first; anything unknown is the network's order.
    """
    total = len(report.layers)
    chosen = worst_lines(report, most=total if choice == "all" else WORST_ROWS)
    ordered = sorted_lines(chosen, sort)
    lines = (chosen if ordered is None else ordered)[:MOST_ROWS]
    return Listing(
        lines,
        total,
        sort="depth" if ordered is None else sort,
        choice="all" if choice == "all" or total <= WORST_ROWS else "worst",
    )
