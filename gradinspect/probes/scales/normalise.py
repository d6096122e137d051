"""From raw scales, in each method's own unit, to multipliers of the base rate that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

LOWEST, HIGHEST = 1e-3, 1e3  # chosen: beyond a factor of a thousand an optimizer's other constants stop fitting


def geometric_mean(values: Sequence[float]) -> float:
    """Return exp of the mean log; 1 for no values."""
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else 1.0


def filled(raw: Sequence[float | None], stand_in: Sequence[float | None]) -> list[float | None]:
    """Fill in another method's scales where this one has none, in this one's unit.

    A filled-in scale has the same ratio to the geometric mean of its method's scales, over the groups where both
    methods have one.
    """
    both = [(a, b) for a, b in zip(raw, stand_in, strict=True) if a is not None and b is not None]
    unit = geometric_mean([a for a, _ in both]) / geometric_mean([b for _, b in both])
    return [a if a is not None else (b * unit if b is not None else None) for a, b in zip(raw, stand_in, strict=True)]


def normalised(raw: Sequence[float | None]) -> list[float]:
    """Scale to geometric mean 1 over the groups that have a scale, and clip; a group without one gets exactly 1."""
    mean = geometric_mean([value for value in raw if value is not None])
    return [1.0 if value is None else min(max(value / mean, LOWEST), HIGHEST) for value in raw]


def spread_dex(scales: Sequence[float]) -> float:
    """Return log10 of the largest over the smallest scale; 0 for one group or none."""
    return math.log10(max(scales) / min(scales)) if scales else 0.0
