"""What low precision would do to gradients that were computed in higher precision.

A float16 keeps |x| > 2⁻²⁵ (half its smallest subnormal, round to nearest even), a bfloat16 keeps |x| > 2⁻¹³⁴. Source:
IEEE 754-2008 binary16; Micikevicius et al. 2018, "Mixed precision training", section 3.2, for loss scaling.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradinspect.contracts.report import PrecisionSection
from gradinspect.contracts.request import Precision
from gradinspect.engine.distributions import Distribution
from gradinspect.engine.statistics import Array

FP16_FLUSH = 2.0**-25
FP16_SMALLEST_NORMAL = 2.0**-14
FP16_LARGEST = 65_504.0
BF16_FLUSH = 2.0**-134
_POOL = 1_024  # values a tensor adds to the pooled quantile


def flush_fractions(spread: Distribution, loss_scale: float) -> tuple[float | None, float | None]:
    """Shares of non-zero gradient elements that become 0 in float16 and bfloat16 at a loss scale."""
    nonzero = spread.magnitudes.size - spread.zeros
    if nonzero == 0:
        return None, None
    small16 = int(np.count_nonzero(spread.magnitudes <= FP16_FLUSH / loss_scale)) - spread.zeros
    small_bf = int(np.count_nonzero(spread.magnitudes <= BF16_FLUSH / loss_scale)) - spread.zeros
    return small16 / nonzero, small_bf / nonzero


def precision_section(
    spreads: Iterable[tuple[Distribution, int, float]], settings: Precision, compute: str
) -> PrecisionSection:
    """Pool all gradients.

    Args:
        spreads: for each gradient its distribution, its number of elements and its largest magnitude.
        settings: intended precision and loss scale.
        compute: the dtype that the gradients were computed in.
    """
    pooled: list[tuple[Array, float]] = []
    weights: list[float] = []
    flushed16 = flushed_bf = 0.0
    largest = 0.0
    for spread, numel, abs_max in spreads:
        nonzero = (1 - spread.zeros / max(spread.magnitudes.size, 1)) * numel
        fp16, bf16 = flush_fractions(spread, settings.loss_scale)
        if fp16 is None or bf16 is None:
            continue
        largest = max(largest, abs_max)
        weights.append(nonzero)
        flushed16 += fp16 * nonzero
        flushed_bf += bf16 * nonzero
        values = spread.magnitudes[spread.magnitudes > 0]
        values = values[:: max(values.size // _POOL, 1)]
        pooled.append((values, nonzero / values.size))
    if not pooled or largest == 0.0:
        return PrecisionSection(
            status="undetermined", reason="no parameter has a finite, non-zero gradient", compute=compute,
            intended=settings.intended, loss_scale=settings.loss_scale,
        )  # fmt: skip
    total = sum(weights)
    return PrecisionSection(
        compute=compute,
        intended=settings.intended,
        loss_scale=settings.loss_scale,
        fp16_flush_fraction=flushed16 / total,
        bf16_flush_fraction=flushed_bf / total,
        loss_scale_window=(FP16_SMALLEST_NORMAL / _weighted_quantile(pooled, 0.01), FP16_LARGEST / largest),
    )


def _weighted_quantile(parts: list[tuple[Array, float]], fraction: float) -> float:
    values = np.concatenate([part.astype(np.float64) for part, _ in parts])
    weights = np.concatenate([np.full(part.size, weight) for part, weight in parts])
    order = np.argsort(values)
    ranks = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(ranks, fraction * ranks[-1])])
