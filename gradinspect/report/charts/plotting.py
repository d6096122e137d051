"""Parts that charts share: an area with a log axis, lines with their names, and the image around them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BACKWARD, FORWARD, FAULT, INK = "#3b82c4", "#b7791f", "#d1383f", "#7a828c"  # 3:1 or better on white and on near-black
FONT = 'font-family="system-ui, sans-serif" font-size="12"'
LABEL_HEIGHT = 16
MOST_MARKS = 200  # beyond it, points and tooltips would hide the line and swell the page
MOST_POINTS = 1_000  # more than the pixels of a wide chart
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROUND = [base * 10**power for power in range(8) for base in (1, 2, 5)]

# XML 1.0 forbids these even escaped, or they reorder or hide text; a model may name a layer with them.
_NOT_XML = re.compile(
    "[^\t\n\r\u0020-\u007e\u00a0-\u061b\u061d-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff\ue000-\ufefe\uff00-\ufffd"
    "\U00010000-\U0010ffff]"
)

Series = Sequence[float | None]


@dataclass(frozen=True)
class Frame:
    """A chart's area in pixels of the view box, the decades that it shows, and its number of positions."""

    left: float
    top: float
    width: float
    height: float
    low: float
    high: float
    count: int

    def x(self, index: float) -> float:
        """Return the x of a position along the depth."""
        return self.left + self.width * (index / (self.count - 1) if self.count > 1 else 0.5)

    def y(self, value: float) -> float:
        """Return the y of a positive value."""
        return self.y_of_decade(math.log10(value))

    def y_of_decade(self, exponent: float) -> float:
        """Return the y of a power of ten."""
        return self.top + self.height * (self.high - exponent) / (self.high - self.low)


def decades(values: Sequence[float], margin: float = 0.15) -> tuple[int, int]:
    """Return the whole decades that contain all values, at least two."""
    if not values:
        return -1, 1
    low, high = math.floor(math.log10(min(values)) - margin), math.ceil(math.log10(max(values)) + margin)
    while high - low < 2:
        low, high = low - (high - low) % 2, high + 1 - (high - low) % 2
    return low, high


def axes(frame: Frame, title: str = "input ← depth of the layer call → output") -> str:
    """Draw grid lines with powers of ten on the left, and positions under the area.

    Args:
        frame: the chart's area.
        title: what the positions count.
    """
    step = max(1, math.ceil((frame.high - frame.low) / 6))
    exponents = range(math.ceil(frame.low / step) * step, math.floor(frame.high) + 1, step)
    heights = "".join(height(frame, exponent, power(exponent)) for exponent in exponents)
    return heights + positions(frame, title)


def height(frame: Frame, exponent: float, word: str) -> str:
    """Draw one grid line with its word on the left."""
    y = frame.y_of_decade(exponent)
    return (
        f'<path class="grid" d="M{frame.left} {y:.1f}h{frame.width}" stroke="{INK}" stroke-opacity="0.25"/>'
        f'<text class="ink" x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}" {FONT}>'
        f"{escaped(word)}</text>"
    )


def positions(frame: Frame, title: str) -> str:
    """Draw whole numbers under the area, from 0, and their title."""
    bottom = frame.top + frame.height
    parts = [
        f'<path class="grid" d="M{frame.x(index):.1f} {bottom}v4" stroke="{INK}"/><text class="ink" '
        f'x="{frame.x(index):.1f}" y="{bottom + 17}" text-anchor="middle" fill="{INK}" {FONT}>{index}</text>'
        for index in _ticks(frame.count)
    ]
    middle = frame.left + frame.width / 2
    parts.append(
        f'<text class="ink" x="{middle}" y="{bottom + 34}" text-anchor="middle" fill="{INK}" {FONT}>'
        f"{escaped(title)}</text>"
    )
    return "".join(parts)


def _ticks(count: int) -> list[int]:
    """Choose up to nine whole numbers from 0 to count − 1, including the last."""
    if count <= 9:
        return list(range(count))
    step = next(size for size in _ROUND if (count - 1) / size <= 8)
    ticks = list(range(0, count, step))
    if count - 1 - ticks[-1] < step / 2:
        ticks.pop()
    return [*ticks, count - 1]


def power(exponent: int) -> str:
    """Write a power of ten: 1, 10, 10⁻³."""
    return "1" if exponent == 0 else "10" if exponent == 1 else f"10{str(exponent).translate(_SUPERSCRIPT)}"


def octave(exponent: int) -> str:
    """Write a power of two as a factor: × 4, ÷ 16, × 2²⁶."""
    size = f"{2 ** abs(exponent):,}" if abs(exponent) < 14 else f"2{str(abs(exponent)).translate(_SUPERSCRIPT)}"
    return f"{'÷' if exponent < 0 else '×'} {size}"


def line(frame: Frame, values: Series, name: str, colour: str, *, dashed: bool = False, weight: float = 2.0) -> str:
    """Draw one path, broken where a value cannot be drawn. Long lines are not dashed: dashes would hide them."""
    path, pen = [], "M"
    for index, value in _sampled(values):
        if value is None or value <= 0:
            pen = "M"
            continue
        path.append(f"{pen}{frame.x(index):.1f} {frame.y(value):.1f}")
        pen = "L"
    if not path:
        return ""
    dash = ' stroke-dasharray="6 4"' if dashed and len(values) <= MOST_MARKS else ""
    return (
        f'<path class="{name}" d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="{weight:g}" '
        f'stroke-linejoin="round" stroke-linecap="round"{dash}/>'
    )


def names_at_ends(frame: Frame, named: Sequence[tuple[Series, str, str]]) -> str:
    """Write the names of lines at their right ends, without overlap.

    Args:
        frame: the chart's area.
        named: for each line its values, its name (also its class) and its colour.
    """
    ends: list[tuple[float, str, str]] = []
    for values, word, colour in named:
        last = next((value for value in reversed(values) if value is not None and value > 0), None)
        if last is not None:
            ends.append((frame.y(last), word, colour))
    ends.sort()
    heights = _apart([y for y, _, _ in ends])
    x = frame.left + frame.width + 10
    return "".join(
        f'<text class="{escaped(word)}-text" x="{x}" y="{y + 4:.1f}" fill="{colour}" {FONT} font-weight="600">'
        f"{escaped(word)}</text>"
        for y, (_, word, colour) in zip(heights, ends, strict=True)
    )


def _apart(heights: Sequence[float]) -> list[float]:
    """Move labels down where they would overlap, and all of them up by half of that."""
    moved: list[float] = []
    for y in heights:
        moved.append(max(y, moved[-1] + LABEL_HEIGHT) if moved else y)
    lift = (moved[-1] - heights[-1]) / 2 if moved else 0.0
    return [y - lift for y in moved]


def _sampled(values: Series) -> list[tuple[int, float | None]]:
    """Return all points, or the smallest and the largest of each stretch when there are too many."""
    points = list(enumerate(values))
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    chosen: list[tuple[int, float | None]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        drawn = [(index, value) for index, value in stretch if value is not None and value > 0]
        if not drawn:
            chosen.append(stretch[0])
            continue
        chosen.extend(sorted({min(drawn, key=_value), max(drawn, key=_value)}))
    return chosen


def _value(point: tuple[int, float]) -> float:
    return point[1]


def thinned(indices: Sequence[int], most: int) -> Sequence[int]:
    """Choose at most `most` of the indices, evenly."""
    return indices if len(indices) <= most else [indices[i * len(indices) // most] for i in range(most)]


def escaped(text: str) -> str:
    """Escape text for XML, and replace what XML forbids."""
    return escape(_NOT_XML.sub("\ufffd", text))


def svg(width: int, height: int, label: str, body: str, name: str, described_by: str | None) -> str:
    """Wrap the parts in an image with a label; `described_by` is the id of the table with its numbers."""
    described = f' aria-describedby="{escaped(described_by)}"' if described_by is not None else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escaped(label)}"{described}>{body}</svg>'
    )
