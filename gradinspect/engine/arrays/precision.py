"""Effect that low precision would have on gradients that were computed in higher precision.

A format represents what is larger than half of its smallest subnormal (round to nearest, ties to even): |x| > 2⁻²⁵ in
float16, 2⁻¹³⁴ in bfloat16, 2⁻¹⁰ in float8 e4m3, 2⁻¹⁷ in float8 e5m2. Sources: IEEE 754-2008 binary16; Micikevicius et
al. 2018, "Mixed precision training", section 3.2, for loss scaling; Micikevicius et al. 2022, "FP8 formats for deep
learning", table 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.contracts.request.request import Precision
from gradinspect.engine.arrays.distributions import Distribution
from gradinspect.engine.arrays.host_arrays import Array

FP16_FLUSH = 2.0**-25
FP16_SMALLEST_NORMAL = 2.0**-14
FP16_LARGEST = 65_504.0
BF16_FLUSH = 2.0**-134
FP8_E4M3_FLUSH = 2.0**-10
FP8_E5M2_FLUSH = 2.0**-17
_FLUSHED_UP_TO = (FP16_FLUSH, BF16_FLUSH, FP8_E4M3_FLUSH, FP8_E5M2_FLUSH)
_POOL = 1_024  # values a tensor adds to the pooled quantile


def flush_fractions(distribution: Distribution, loss_scale: float) -> tuple[float | None, float | None]:
    """Compute the shares of non-zero gradient elements that become 0 in float16 and bfloat16 at a loss scale."""
    fractions = _flushed(distribution, loss_scale, (FP16_FLUSH, BF16_FLUSH))
    return (None, None) if fractions is None else (fractions[0], fractions[1])


def _flushed(distribution: Distribution, loss_scale: float, limits: Iterable[float]) -> list[float] | None:
    """Compute the share of non-zero elements up to each limit; None where every element is zero."""
    nonzero = distribution.magnitudes.size - distribution.zeros
    if nonzero == 0:
        return None
    # No non-zero value is smaller.
    smallest = 2.0**distribution.lowest_exponent if distribution.lowest_exponent > -127 else 0.0
    return [
        (int(np.count_nonzero(distribution.magnitudes <= limit)) - distribution.zeros) / nonzero
        if limit >= smallest
        else 0.0
        for limit in (each / loss_scale for each in limits)
    ]


def precision_section(
    gradients: Iterable[tuple[Distribution, int, float]], settings: Precision, compute: str
) -> PrecisionSection:
    """Compute the shares that become 0 in low precision over all gradients, and the window of safe loss scales.

    Args:
        gradients: for each one its distribution, its number of elements and its largest magnitude.
        settings: intended precision and loss scale.
        compute: the precision that the gradients were computed in.
    """
    pooled: list[tuple[Array, float]] = []
    weights: list[float] = []
    flushed = [0.0] * len(_FLUSHED_UP_TO)
    largest = 0.0
    for distribution, numel, abs_max in gradients:
        nonzero = (1 - distribution.zeros / max(distribution.magnitudes.size, 1)) * numel
        fractions = _flushed(distribution, settings.loss_scale, _FLUSHED_UP_TO)
        if fractions is None:
            continue
        largest = max(largest, abs_max)
        weights.append(nonzero)
        flushed = [total + fraction * nonzero for total, fraction in zip(flushed, fractions, strict=True)]
        magnitudes = distribution.magnitudes
        values = magnitudes[magnitudes > 0] if distribution.zeros else magnitudes
        values = values[:: max(values.size // _POOL, 1)]
        pooled.append((values, nonzero / values.size))
    if not pooled or largest == 0.0:
        return PrecisionSection(
            status="undetermined", reason="no parameter has a finite, non-zero gradient", compute=compute,
            intended=settings.intended, loss_scale=settings.loss_scale,
        )  # fmt: skip
    total = sum(weights)
    fp16, bf16, e4m3, e5m2 = (part / total for part in flushed)
    return PrecisionSection(
        compute=compute,
        intended=settings.intended,
        loss_scale=settings.loss_scale,
        fp16_flush_fraction=fp16,
        bf16_flush_fraction=bf16,
        fp8_e4m3_flush_fraction=e4m3,
        fp8_e5m2_flush_fraction=e5m2,
        loss_scale_window=(FP16_SMALLEST_NORMAL / _weighted_quantile(pooled, 0.01), FP16_LARGEST / largest),
    )


def _weighted_quantile(parts: Sequence[tuple[Array, float]], fraction: float) -> float:
    """Return the smallest value such that a fraction of the weight belongs to values up to it.

    Args:
        parts: positive values, and the weight of each of them.

    Cost: one comparison of all values per bit. Sorting takes as long, and five times the values' memory.
    """
    values = np.concatenate([part for part, _ in parts])
    starts = np.cumsum([0, *(part.size for part, _ in parts[:-1])])
    weights = np.array([weight for _, weight in parts])

    def weight_up_to(limit: np.floating) -> float:
        return float(np.add.reduceat(values <= limit, starts, dtype=np.int64) @ weights)

    pattern = np.dtype(f"i{values.itemsize}")  # positive floats have the order of their bits
    low, high = 0, int(values.max().view(pattern))
    target = fraction * weight_up_to(values.max())
    while low < high:
        middle = (low + high) // 2
        if weight_up_to(pattern.type(middle).view(values.dtype)) < target:
            low = middle + 1
        else:
            high = middle
    return float(pattern.type(low).view(values.dtype))
