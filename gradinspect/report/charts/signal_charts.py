"""Charts of the signal against depth, as SVG text.

Colours are presentation attributes that are readable on light and dark; a page may restyle the classes. A screen reader
sees one image, labelled by its conclusion; a table on the page has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.report.charts.plotting import (
    BACKWARD,
    FAULT,
    FONT,
    FORWARD,
    INK,
    MOST_MARKS,
    Frame,
    Series,
    axes,
    decades,
    escaped,
    line,
    names_at_ends,
    svg,
    thinned,
)
from gradinspect.report.words.figures import printable
from gradinspect.wording import counted, fold, number


def signal_profile(
    layers: Sequence[LayerMeasurement],
    *,
    guides: Sequence[tuple[float, str]] = (),
    described_by: str | None = None,
    width: int = 760,
    height: int = 300,
) -> str:
    """Draw the backward and the forward signal against depth, on a log axis.

    Both are relative to where they start: the backward signal to the last layer call, the forward signal to the first.
    Values that are zero or not finite are marked on a rail under the chart.

    Args:
        layers: layer calls in depth order.
        guides: thresholds to draw as lines, with their words, as far as they are within the chart.
        described_by: id of the table with the numbers.
        width, height: of the view box; the image scales.

    Cost: one pass; at most a thousand points a line, and marks up to two hundred layer calls.
    """
    backward, forward = relative_backward(layers), relative_forward(layers)
    values = [value for value in (*backward, *forward) if value is not None and value > 0]
    low, high = decades(values)
    faults = _faults(layers, backward, forward)
    below = 62 if faults else 42  # the axis, and the rail under it
    frame = Frame(52, 14, width - 52 - 96, height - 14 - below, low, high, max(len(layers), 1))
    parts = [
        axes(frame),
        _guides(frame, guides),
        line(frame, forward, "forward", FORWARD, dashed=True),
        line(frame, backward, "backward", BACKWARD),
        _marks(frame, layers, forward, "forward", FORWARD) + _marks(frame, layers, backward, "backward", BACKWARD),
        names_at_ends(frame, ((backward, "backward", BACKWARD), (forward, "forward", FORWARD))),
        _rail(frame, faults),
    ]
    return svg(width, height, conclusion(layers), "".join(parts), "signal-profile", described_by)


def sparkline(values: Series, *, width: int = 120, height: int = 28) -> str:
    """Draw a backward signal, input first, as one small line on a log axis.

    Args:
        values: any positive numbers proportional to the signal; zero and None are marked at the bottom.
    """
    known = [value for value in values if value is not None and value > 0 and math.isfinite(value)]
    low, high = decades(known, margin=0.0)
    frame = Frame(2, 3, width - 4, height - 6, low, high, max(len(values), 1))
    faults = "".join(
        f'<path class="fault" d="M{frame.x(index):.1f} {height - 6}v5" stroke="{FAULT}" stroke-width="1.5"/>'
        for index in thinned([i for i, value in enumerate(values) if value is None or value <= 0], 40)
    )
    label = "no signal was measured" if not known else f"backward signal: {_change(known[0] / known[-1])}"
    return svg(width, height, label, line(frame, values, "backward", BACKWARD) + faults, "sparkline", None)


def conclusion(layers: Sequence[LayerMeasurement]) -> str:
    """Write the chart as one sentence."""
    backward = [value for value in relative_backward(layers) if value is not None and value > 0]
    forward = [value for value in relative_forward(layers) if value is not None and value > 0]
    sentence = f"Signal against depth over {counted(len(layers), 'layer call')}: "
    parts = []
    if len(backward) > 1:
        parts.append(f"from output to input the backward signal {_change(backward[0] / backward[-1])}")
    if len(forward) > 1:
        parts.append(f"from input to output the forward signal {_change(forward[-1] / forward[0])}")
    faults = sum(1 for value in relative_backward(layers) if value is None or value <= 0)
    if faults:
        parts.append(f"{counted(faults, 'layer call')} {'has' if faults == 1 else 'have'} no finite, non-zero signal")
    return sentence + ("; ".join(parts) if parts else "too little was measured to draw") + "."


def relative_backward(layers: Sequence[LayerMeasurement]) -> list[float | None]:
    """Return ‖δ‖ of each layer call relative to the last one."""
    return [_positive_or_zero(row.cumulative_backward_gain) for row in layers]


def relative_forward(layers: Sequence[LayerMeasurement]) -> list[float | None]:
    """Return the rms of each layer call's output relative to the first non-zero one."""
    sizes = [_positive_or_zero(row.activation.rms if row.activation is not None else None) for row in layers]
    first = next((size for size in sizes if size), None)
    if first is None:
        return sizes
    return [_positive_or_zero(size / first) if size is not None else None for size in sizes]


def _positive_or_zero(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _change(factor: float) -> str:
    if 0.5 <= factor <= 2:
        return f"ends at {number(factor)} times its size"
    return f"{'shrinks' if factor < 1 else 'grows'} {fold(factor)}"


def _guides(frame: Frame, guides: Sequence[tuple[float, str]]) -> str:
    parts = []
    for value, word in guides:
        if value > 0 and frame.low < math.log10(value) < frame.high:
            y = frame.y(value)
            parts.append(
                f'<path class="guide" d="M{frame.left} {y:.1f}h{frame.width}" stroke="{FAULT}" stroke-opacity="0.7" '
                f'stroke-dasharray="2 4"/><text class="fault-text" x="{frame.left + 6}" y="{y - 5:.1f}" '
                f'fill="{FAULT}" {FONT}>{escaped(word)}</text>'
            )
    return "".join(parts)


def _marks(frame: Frame, layers: Sequence[LayerMeasurement], values: Series, name: str, colour: str) -> str:
    if len(layers) > MOST_MARKS:
        return ""
    radius = 3.5 if len(layers) <= 60 else 2
    return "".join(
        f'<circle class="{name}-mark" data-depth="{row.depth}" cx="{frame.x(index):.1f}" cy="{frame.y(value):.1f}" '
        f'r="{radius}" fill="{colour}"><title>{escaped(_shortened(row))}: {name} {number(value)}</title></circle>'
        for index, (row, value) in enumerate(zip(layers, values, strict=True))
        if value is not None and value > 0
    )


def _shortened(row: LayerMeasurement) -> str:
    name, kind = printable(row.name if len(row.name) <= 60 else f"…{row.name[-59:]}"), printable(row.kind)
    return f"{name} ({kind})" if row.call == 0 else f"{name}, call {row.call} ({kind})"


def _faults(layers: Sequence[LayerMeasurement], backward: Series, forward: Series) -> list[int]:
    """Find the positions that a log axis cannot show: zeros, and values that are not finite."""
    return [
        index
        for index, row in enumerate(layers)
        if row.nonfinite_count or backward[index] is None or backward[index] == 0 or forward[index] == 0
    ]


def _rail(frame: Frame, faults: Sequence[int]) -> str:
    """Draw ticks at the edge for values that a log axis cannot show."""
    if not faults:
        return ""
    y = frame.top + frame.height + 46
    ticks = "".join(
        f'<path class="fault" d="M{frame.x(index):.1f} {y - 5}v10" stroke="{FAULT}" stroke-width="2"/>'
        for index in thinned(faults, 400)
    )
    return (
        f'<path class="grid" d="M{frame.left} {y}h{frame.width}" stroke="{INK}" stroke-opacity="0.4"/>{ticks}'
        f'<text class="fault-text" x="{frame.left + frame.width + 10}" y="{y + 4}" fill="{FAULT}" {FONT}>'
        "zero or NaN</text>"
    )
