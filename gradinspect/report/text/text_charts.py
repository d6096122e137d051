"""Charts made of characters: a line of blocks for a signal, bars for shares and for scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDTHS = " ▏▎▍▌▋▊▉█"
FAULT = "×"  # a value that is zero or not finite


def sparkline(values: Sequence[float | None], *, most: int) -> str:
    """Write a signal as one line of blocks on a log scale, input first.

    A long signal shows the smallest value of each stretch. Zero and None are marked. Less than a factor of ten between
    the extremes stays flat, so that noise is not drawn as a collapse. Empty when there is nothing to draw.
    """
    count = min(len(values), max(most, 1))
    stretches = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    lowest = [_smallest(stretch) for stretch in stretches]
    known = [math.log10(value) for value in lowest if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = max(high - low, 1.0)
    return "".join(
        FAULT if value is None else _HEIGHTS[min(7, int(8 * (1 - (high - math.log10(value)) / span)))]
        for value in lowest
    )


def curve(values: Sequence[float | None], *, most: int, top: float = 1.0) -> str:
    """Write a curve as one line of blocks between 0 and `top`, on a linear scale; what is not finite is marked."""
    count = min(len(values), max(most, 1))
    ends = [values[len(values) * (i + 1) // count - 1] for i in range(count)]
    return "".join(FAULT if value is None else _HEIGHTS[min(7, max(0, int(8 * value / top)))] for value in ends)


def bar(share: float, cells: int) -> str:
    """Write a bar from the left that fills a share of `cells`, in eighths of a cell."""
    eighths = max(0, min(8 * cells, round(8 * cells * share)))
    full, rest = divmod(eighths, 8)
    return _WIDTHS[8] * full + (_WIDTHS[rest] if rest else "")


def centred_bar(value: float, widest: float, cells: int) -> str:
    """Write a bar from a middle line, to the right for positive values; `widest` fills one side."""
    length = round(cells * abs(value) / widest) if widest else 0
    return f"{'▬' * length:>{cells}}│" if value < 0 else f"{' ' * cells}│{'▬' * length}"


def _smallest(stretch: Sequence[float | None]) -> float | None:
    """Return the smallest value; None when one is zero or unknown."""
    if any(value is None or value <= 0 for value in stretch):
        return None
    return min(value for value in stretch if value is not None)
