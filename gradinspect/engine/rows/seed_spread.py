"""How far the passes over seeds or batches lie apart: what the averaged rows no longer show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import stdev

from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.report.sections import LayerSpread, SeedSpread


def seed_spread(
    layers: Sequence[Sequence[LayerMeasurement]], parameters: Sequence[Sequence[ParameterMeasurement]]
) -> SeedSpread | None:
    """The standard deviation over passes of log2 of each layer call's numbers; None for a single pass.

    Norms and gains vary by factors, so their logarithms are what is averaged, and what spreads. A number that is
    missing or zero in any pass has no spread.

    Args:
        layers: the layer rows of each pass; the first pass decides the order.
        parameters: the parameter rows of each pass.
    """
    if len(layers) < 2:
        return None
    found = [{(row.name, row.call): row for row in rows} for rows in layers]
    norms = [{row.name: row.grad_norm for row in rows} for rows in parameters]
    rows = []
    for first in layers[0]:
        seen = [rows_of_pass.get((first.name, first.call)) for rows_of_pass in found]
        same = [row for row in seen if row is not None]
        if len(same) < len(seen):
            rows.append(LayerSpread())
            continue
        rows.append(
            LayerSpread(
                signal_rms=_spread(row.signal.rms if row.signal is not None else None for row in same),
                cumulative_backward_gain=_spread(row.cumulative_backward_gain for row in same),
                backward_gain=_spread(row.backward_gain for row in same),
                forward_gain=_spread(row.forward_gain for row in same),
                grad_norm=_spread(
                    _norm(norms_of_pass.get(name) for name in first.parameters) for norms_of_pass in norms
                ),
            )
        )
    return SeedSpread(seeds=len(layers), layers=tuple(rows))


def _norm(norms: Iterable[float | None]) -> float | None:
    known = [norm for norm in norms if norm is not None]
    return math.hypot(*known) if known else None


def _spread(values: Iterable[float | None]) -> float | None:
    logs = [math.log2(value) if value is not None and value > 0 else None for value in values]
    known = [value for value in logs if value is not None]
    return stdev(known) if len(known) == len(logs) else None
