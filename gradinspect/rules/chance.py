"""The difference between two averages over seeds that chance alone explains."""

from __future__ import annotations

import math
from functools import lru_cache

CONFIDENCE = 0.95  # of a band: chance alone leaves it in 1 of 20 numbers


def half_width(base_std: float | None, base_count: int, head_std: float | None, head_count: int) -> float | None:
    """Return the half width of the band around 0 that holds a difference of two means with probability `CONFIDENCE`.

    Two-sample t interval with one pooled variance, because one of the sides may be a single draw.

    Args:
        base_std: standard deviation over the base's seeds, None where it is unknown.
        base_count: number of seeds behind the base's mean.
        head_std: likewise for the head.
        head_count: likewise.

    Returns:
        None when neither side records how much its seeds vary.

    Source: Student 1908; the pooled form in any text on the two-sample t-test.
    """
    sides = [
        (std, count) for std, count in ((base_std, base_count), (head_std, head_count)) if std is not None and count > 1
    ]
    freedom = sum(count - 1 for _, count in sides)
    if freedom == 0 or base_count < 1 or head_count < 1:
        return None
    variance = math.fsum((count - 1) * std**2 for std, count in sides) / freedom
    return t_quantile(freedom) * math.sqrt(variance * (1 / base_count + 1 / head_count))


@lru_cache(maxsize=256)
def t_quantile(freedom: int) -> float:
    """Return the t with P(|T| ≤ t) = `CONFIDENCE`, by bisection; relative error under 1e-9."""
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_within(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _probability_within(t: float, freedom: int) -> float:
    """Return P(|T| ≤ t) of Student's distribution. Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, freedom - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + math.sin(angle) * total)
    term, total = 1.0, 0.0
    for k in range(1, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return math.sin(angle) * total
