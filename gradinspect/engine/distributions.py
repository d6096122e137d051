"""How the magnitudes of a tensor are spread: quantiles, and counts by binary exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from gradinspect.engine.statistics import Array, flat_values

SAMPLE = 16_384  # quantiles and histograms are exact up to this size, and look at about as many elements above it
QUANTILES = (0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99)
_FINE_BITS = 6
_CHUNK = 16  # elements of 4 bytes that share a cache line

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int_]]


@dataclass(frozen=True, slots=True)
class Distribution:
    """How magnitudes are spread: quantiles, and counts by binary exponent.

    `sampled` says that a strided sample stands for all elements; `magnitudes` is what was looked at.
    """

    quantiles: tuple[float, ...]
    lowest_exponent: int
    exponent_counts: tuple[int, ...]
    zeros: int
    sampled: bool
    magnitudes: Array


def distribution(tensor: torch.Tensor) -> Distribution:
    """Quantiles and log2 histogram of |x|, for finite values.

    Exact up to `SAMPLE` elements. Above, a strided sample is binned by its leading bits (8 exponent and 6 mantissa
    bits of a float32): quantiles then carry a relative error of at most 2⁻⁷ from the binning and a rank error of
    standard deviation at most 0.005 from the sampling. Sorting the sample would cost more than all other statistics.
    """
    return array_distribution(magnitude_sample(tensor).cpu().numpy(), sampled=tensor.numel() > SAMPLE)


def distribution_of(values: Array) -> Distribution:
    """`distribution` of a flat array on the host."""
    if values.size <= SAMPLE:
        return array_distribution(np.abs(values), sampled=False)
    return array_distribution(np.abs(values[:: coprime_stride(values.size, SAMPLE)]), sampled=True)


def magnitude_sample(tensor: torch.Tensor) -> torch.Tensor:
    """|x| of all elements, or of a strided sample of them; new memory on the tensor's device."""
    values = flat_values(tensor)
    missing = tensor.numel() - values.numel()  # a sparse tensor's zeros
    if missing:
        kept = max(round(min(tensor.numel(), SAMPLE) * values.numel() / tensor.numel()), 1) if values.numel() else 0
        stored = values[:: max(values.numel() // kept, 1)] if kept else values
        zeros = round(stored.numel() * missing / values.numel()) if kept else min(missing, SAMPLE)
        return torch.cat([stored.abs(), stored.new_zeros(zeros)])
    return (values if values.numel() <= SAMPLE else values[:: coprime_stride(values.numel(), SAMPLE)]).abs()


@lru_cache(maxsize=4096)
def coprime_stride(count: int, wanted: int) -> int:
    """The smallest step that leaves at most `wanted` of `count` elements and shares no factor with `count`.

    A step that shares none with the element count shares none with the width of a row, so that all columns are visited.
    """
    stride = -(-count // wanted)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def strided_chunks(values: torch.Tensor, wanted: int) -> torch.Tensor:
    """About `wanted` of the elements on the last axis, in runs of a cache line, so that the rest stays unread."""
    size = values.shape[-1]
    if size <= wanted:
        return values
    chunks = size // _CHUNK
    stride = coprime_stride(chunks, max(wanted // _CHUNK, 1))
    whole = values[..., : chunks * _CHUNK].reshape(*values.shape[:-1], chunks, _CHUNK)
    return whole[..., ::stride, :].flatten(-2)


def array_distribution(magnitudes: Array, *, sampled: bool) -> Distribution:
    """`distribution` of magnitudes that are already looked up."""
    zeros = _zeros(magnitudes)
    if sampled and magnitudes.dtype == np.float32:
        quantiles, lowest, counts = _binned(magnitudes, zeros)
        return Distribution(quantiles, lowest, counts, zeros, sampled, magnitudes)
    lowest, counts = _exponent_counts(magnitudes, zeros)
    return Distribution(_exact_quantiles(magnitudes), lowest, counts, zeros, sampled, magnitudes)


def _zeros(magnitudes: Array) -> int:
    if not magnitudes.size or np.minimum.reduce(magnitudes) > 0:
        return 0
    return int(magnitudes.size - np.count_nonzero(magnitudes != 0))


def _exact_quantiles(magnitudes: Array) -> tuple[float, ...]:
    count = magnitudes.size
    if count == 0:
        return (math.nan,) * len(QUANTILES)
    positions = [q * (count - 1) for q in QUANTILES]
    lower = [int(position) for position in positions]
    upper = [min(index + 1, count - 1) for index in lower]
    ranked = np.partition(magnitudes, sorted({*lower, *upper})) if count > 256 else np.sort(magnitudes)
    below, above = ranked[lower].tolist(), ranked[upper].tolist()
    return tuple(
        low + (position - index) * (high - low)
        for position, index, low, high in zip(positions, lower, below, above, strict=True)
    )


def _exponent_counts(magnitudes: Array, zeros: int) -> tuple[int, tuple[int, ...]]:
    mantissa_bits, bias, integer = (23, 127, np.int32) if magnitudes.dtype == np.float32 else (52, 1023, np.int64)
    codes = np.right_shift(magnitudes.view(integer), mantissa_bits)
    counts = np.bincount(codes, minlength=1)
    counts[0] -= zeros  # zeros share the code of subnormals
    return _trimmed(counts, -bias)


def _trimmed(counts: Counts, offset: int) -> tuple[int, tuple[int, ...]]:
    present = counts.nonzero()[0]
    if present.size == 0:
        return 0, ()
    first, last = int(present[0]), int(present[-1])
    return first + offset, tuple(counts[first : last + 1].tolist())


def _binned(magnitudes: Array, zeros: int) -> tuple[tuple[float, ...], int, tuple[int, ...]]:
    """Quantiles and exponent counts of float32 magnitudes from one count of their leading bits."""
    shift = 23 - _FINE_BITS
    codes = magnitudes.view(np.int32) >> shift
    lowest = int(np.minimum.reduce(codes)) >> _FINE_BITS  # a whole exponent: the counts fold below
    highest = (int(np.maximum.reduce(codes)) >> _FINE_BITS) + 1
    counts = np.bincount(codes, minlength=highest << _FINE_BITS)[lowest << _FINE_BITS :]
    bins = np.cumsum(counts).searchsorted([q * (magnitudes.size - 1) for q in QUANTILES], side="right")
    edges = (np.array([bins, bins + 1], np.int32) + (lowest << _FINE_BITS) << shift).view(np.float32)
    quantiles = edges.mean(axis=0, dtype=np.float64).tolist()
    by_exponent = np.add.reduce(counts.reshape(-1, 1 << _FINE_BITS), axis=1)
    if lowest == 0:
        by_exponent[0] -= zeros
        quantiles = [0.0 if index == 0 else value for index, value in zip(bins.tolist(), quantiles, strict=True)]
    return tuple(quantiles), *_trimmed(by_exponent, lowest - 127)
