"""Fit of the backward signal against depth: a straight line in log space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.report.sections import DepthDecay

FEWEST_LAYERS = 3  # two points always fit a line


@dataclass(frozen=True)
class Line:
    """Ordinary least squares y = intercept + slope·x; `stderr` is the slope's."""

    slope: float
    stderr: float | None
    r2: float | None


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line to at least two points that differ in x.

    Source: any text on linear regression; stderr² = Σ residual² / ((n − 2)·Σ (x − x̄)²), None for two points.
    """
    x_mean, y_mean = fmean(x), fmean(y)
    spread = math.fsum((value - x_mean) ** 2 for value in x)
    slope = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread
    residual = math.fsum((b - y_mean - slope * (a - x_mean)) ** 2 for a, b in zip(x, y, strict=True))
    total = math.fsum((value - y_mean) ** 2 for value in y)
    stderr = math.sqrt(residual / (len(x) - 2) / spread) if len(x) > 2 else None
    return Line(slope, stderr, 1 - residual / total if total > 0 else None)


def depth_decay(passes: Sequence[Sequence[LayerMeasurement]]) -> DepthDecay:
    """Fit log10(signal rms) against layer calls on the trunk, counted from the output.

    Calls that zero weights keep from learning count with these weights opened.

    Args:
        passes: the layer rows of each seed or batch. With several, the slope is their mean and its standard error
            comes from their spread; with one, it comes from the residuals of its line.
    """
    lines: list[Line] = []
    used = 0
    totals: list[float] = []
    for rows in map(trunk, passes):
        points = [
            (float(len(rows) - 1 - position), math.log10(rms))
            for position, row in enumerate(rows)
            if (rms := _signal_rms(row))
        ]
        used = max(used, len(points))
        if len(points) >= FEWEST_LAYERS:
            lines.append(fit_line(*zip(*points, strict=True)))
        reached = [gain for row in rows if (gain := _cumulative_gain(row)) is not None]
        if reached:
            totals.append(reached[0])
    gain = geometric_mean(totals)
    if not lines:
        reason = _why_no_line(used, any(passes))
        return DepthDecay(status="undetermined", reason=reason, layers_used=used, cumulative_gain=gain)
    slopes = [line.slope for line in lines]
    stderr = lines[0].stderr if len(lines) == 1 else stdev(slopes) / math.sqrt(len(slopes))
    fits = [line.r2 for line in lines if line.r2 is not None]
    return DepthDecay(
        slope_log10_per_layer=fmean(slopes),
        stderr=stderr,
        r2=fmean(fits) if fits else None,
        cumulative_gain=gain,
        layers_used=used,
    )


def _why_no_line(used: int, has_rows: bool) -> str:
    """Return why there is no line.

    >>> _why_no_line(1, True)
    'layer calls with a finite, non-zero signal: 1; a line needs 3'
    """
    if not has_rows:
        return "no layer call was recognised"
    return f"layer calls with a finite, non-zero signal: {used}; a line needs {FEWEST_LAYERS}"


def trunk(rows: Sequence[LayerMeasurement]) -> Sequence[LayerMeasurement]:
    """Return the rows on the longest path to the loss; all rows where none is known to be."""
    ordered = sorted(rows, key=lambda row: row.depth)
    return [row for row in ordered if row.on_trunk] or ordered


def _signal_rms(row: LayerMeasurement) -> float | None:
    if row.opened is not None:
        return row.opened.signal_rms
    return row.signal.rms if row.signal is not None else None


def _cumulative_gain(row: LayerMeasurement) -> float | None:
    return row.opened.cumulative_backward_gain if row.opened is not None else row.cumulative_backward_gain


def geometric_mean(values: Sequence[float]) -> float | None:
    """Compute exp(mean(log)); 0 when a value is 0, None when there are none.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    if not values:
        return None
    if min(values) <= 0:
        return 0.0
    return math.exp(fmean(math.log(value) for value in values))
