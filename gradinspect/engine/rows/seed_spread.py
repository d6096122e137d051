"""Spread over seeds or batches, which the averaged rows no longer show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import stdev

from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.report.sections import LayerSpread, SeedSpread


def seed_spread(passes: Sequence[Sequence[LayerMeasurement]]) -> SeedSpread | None:
    """Return the standard deviation over passes of log2 of each layer call's numbers; None for a single pass.

    Norms and gains vary by factors, so their logarithms are averaged, and the spread is that of their logarithms. A
    number that is missing or zero in any pass has no spread.

    Args:
        passes: the layer rows of each pass; the first pass decides the order.
    """
    if len(passes) < 2:
        return None
    by_call = [{(row.name, row.call): row for row in rows} for rows in passes]
    return SeedSpread(
        seeds=len(passes),
        layers=tuple(_layer_spread([rows.get((first.name, first.call)) for rows in by_call]) for first in passes[0]),
    )


def _layer_spread(seen: Sequence[LayerMeasurement | None]) -> LayerSpread:
    rows = [row for row in seen if row is not None]
    if len(rows) < len(seen):
        return LayerSpread()
    return LayerSpread(
        signal_rms=_log2_deviation(row.signal.rms if row.signal is not None else None for row in rows),
        cumulative_backward_gain=_log2_deviation(row.cumulative_backward_gain for row in rows),
        backward_gain=_log2_deviation(row.backward_gain for row in rows),
        forward_gain=_log2_deviation(row.forward_gain for row in rows),
        grad_norm=_log2_deviation(row.grad_norm for row in rows),
    )


def _log2_deviation(values: Iterable[float | None]) -> float | None:
    logs = [math.log2(value) if value is not None and value > 0 else None for value in values]
    known = [value for value in logs if value is not None]
    return stdev(known) if len(known) == len(logs) else None
