"""Distribution of the magnitudes of a tensor: quantiles, and counts by binary exponent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

from gradinspect.engine.arrays.host_arrays import Array, flat_values

SAMPLE = 16_384  # elements; quantiles and histograms are exact up to this size, and read about as many above it
QUANTILES = (0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99)
_LEVELS = np.array(QUANTILES)
_FINE_BITS = 6  # of the mantissa, in a bin's code
_CHUNK = 16  # elements of 4 bytes that share a cache line

Values = TypeVar("Values", torch.Tensor, Array)  # for functions that work on the host and on devices
Counts = np.ndarray[tuple[int, ...], np.dtype[np.int_]]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of magnitudes, and their counts by binary exponent.

    Attributes:
        quantiles: at `QUANTILES`.
        lowest_exponent: of the first count.
        exponent_counts: number of elements with 2^e ≤ |x| < 2^(e+1), for each exponent e from the lowest one.
        sampled: whether a strided sample was read instead of all elements.
        magnitudes: the elements that were read.
    """

    quantiles: tuple[float, ...]
    lowest_exponent: int
    exponent_counts: tuple[int, ...]
    zeros: int
    sampled: bool
    magnitudes: Array


def distribution(tensor: torch.Tensor) -> Distribution:
    """Compute quantiles and log2 histogram of |x|, for finite values.

    Exact up to `SAMPLE` elements. Above, a strided sample is binned by its leading bits (8 exponent and 6 mantissa
    bits of a float32): quantiles then carry a relative error of at most 2⁻⁷ from the binning and a rank error of
    standard deviation at most 0.005 from the sampling. Sorting the sample would cost more than all other statistics.
    """
    return row_distributions(magnitude_sample(tensor).cpu().numpy()[None], sampled=tensor.numel() > SAMPLE)[0]


def magnitude_sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return |x| of all elements, or of a strided sample of them, in new memory on the tensor's device."""
    values = flat_values(tensor)
    missing = tensor.numel() - values.numel() if tensor.layout is not torch.strided else 0  # a sparse tensor's zeros
    if missing:
        size = max(round(min(tensor.numel(), SAMPLE) * values.numel() / tensor.numel()), 1) if values.numel() else 0
        stored = values[:: max(values.numel() // size, 1)] if size else values
        zeros = round(stored.numel() * missing / values.numel()) if size else min(missing, SAMPLE)
        return torch.cat([stored.abs(), stored.new_zeros(zeros)])
    return (values if values.numel() <= SAMPLE else values[:: coprime_stride(values.numel(), SAMPLE)]).abs()


@lru_cache(maxsize=4096)
def coprime_stride(count: int, most: int) -> int:
    """Return the smallest step that leaves at most `most` of `count` elements and shares no factor with `count`.

    A step without a common factor with the element count has none with the width of a row, so it visits all columns.

    >>> coprime_stride(100, 25)
    7
    """
    stride = -(-count // most)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def strided_chunks(values: Values, most: int) -> Values:
    """Return about `most` of the elements on the last axis, in runs of a cache line; the others are not read."""
    size = values.shape[-1]
    if size <= most:
        return values
    chunks = size // _CHUNK
    stride = coprime_stride(chunks, max(most // _CHUNK, 1))
    whole = values[..., : chunks * _CHUNK].reshape(*values.shape[:-1], chunks, _CHUNK)
    return whole[..., ::stride, :].reshape(*values.shape[:-1], -1)


def row_distributions(magnitudes: Array, *, sampled: bool) -> list[Distribution]:
    """Compute `distribution` of each row of magnitudes (rows, elements): many tensors for one tensor's overhead."""
    if sampled and magnitudes.dtype == np.float32:
        return [_binned(values) for values in magnitudes]
    zeros = _zeros(magnitudes)
    quantiles = _exact_quantiles(magnitudes)
    lowest, counts = _exponent_counts(magnitudes)
    distributions = []
    for row, values in enumerate(magnitudes):
        by_exponent = counts[row]
        if zeros[row] and by_exponent.size:
            by_exponent[0] -= zeros[row]  # zeros were counted in the first column
        first, trimmed = _trimmed(by_exponent)
        own_lowest = lowest + first if trimmed else 0
        distributions.append(Distribution(tuple(quantiles[row]), own_lowest, trimmed, zeros[row], sampled, values))
    return distributions


def _zeros(magnitudes: Array) -> list[int]:
    if not magnitudes.size or np.minimum.reduce(magnitudes.reshape(-1)) > 0:
        return [0] * len(magnitudes)
    counts: list[int] = np.count_nonzero(magnitudes == 0, axis=1).tolist()
    return counts


def _exact_quantiles(magnitudes: Array) -> list[list[float]]:
    count = magnitudes.shape[1]
    if count == 0:
        return [[math.nan] * len(QUANTILES)] * len(magnitudes)
    positions = np.array([q * (count - 1) for q in QUANTILES])
    lower = positions.astype(np.intp)
    upper = np.minimum(lower + 1, count - 1)
    ranks = sorted({*lower.tolist(), *upper.tolist()})
    ranked = np.partition(magnitudes, ranks, axis=1) if count > 256 else np.sort(magnitudes, axis=1)
    below, above = ranked[:, lower].astype(np.float64), ranked[:, upper].astype(np.float64)
    quantiles: list[list[float]] = (below + (positions - lower) * (above - below)).tolist()
    return quantiles


def _exponent_counts(magnitudes: Array) -> tuple[int, Counts]:
    """Count the magnitudes of each row by exponent; the first result is the exponent of the first column."""
    if not magnitudes.size:
        return 0, np.zeros((len(magnitudes), 0), np.intp)
    mantissa_bits, bias, integer = (23, 127, np.int32) if magnitudes.dtype == np.float32 else (52, 1023, np.int64)
    codes = np.right_shift(magnitudes.view(integer), mantissa_bits)
    flat = codes.reshape(-1)  # one axis is reduced ten times as fast as two
    lowest = int(np.minimum.reduce(flat))
    width = int(np.maximum.reduce(flat)) - lowest + 1
    first_columns = np.arange(0, len(codes) * width, width, dtype=codes.dtype)[:, None]
    counts = np.bincount((codes - lowest + first_columns).reshape(-1), minlength=len(codes) * width)
    return lowest - bias, counts.reshape(len(codes), width)


def _trimmed(counts: Counts) -> tuple[int, tuple[int, ...]]:
    """Cut zeros off both ends of the counts; the first result is the index of the first count left."""
    present = counts.nonzero()[0]
    if present.size == 0:
        return 0, ()
    first, last = int(present[0]), int(present[-1])
    return first, tuple(counts[first : last + 1].tolist())


def _binned(magnitudes: Array) -> Distribution:
    """Compute quantiles and exponent counts of a sample of float32 magnitudes by counting their leading bits.

    The codes, exponent and leading bits of the mantissa, have the order of the magnitudes. The first code is that of
    zeros and the smallest subnormals. A bin's quantile is its middle (its code, one bit set, then zeros), but at most
    the largest magnitude.
    """
    dropped = 23 - _FINE_BITS
    codes = magnitudes.view(np.int32) >> dropped
    exponents = (int(np.maximum.reduce(codes)) >> _FINE_BITS) + 1
    counts = np.bincount(codes, minlength=exponents << _FINE_BITS)
    zeros = int(np.count_nonzero(magnitudes == 0)) if counts[0] else 0
    counts[0] -= zeros
    lowest, by_exponent = _trimmed(np.add.reduce(counts.reshape(exponents, -1), axis=1))
    first = lowest << _FINE_BITS
    ranks = counts[first : first + (len(by_exponent) << _FINE_BITS)].cumsum()
    lower_ranks = (_LEVELS * (magnitudes.size - 1)).astype(np.intp) - zeros
    bins = first + ranks.searchsorted(lower_ranks, side="right")
    middles = ((bins << 1 | 1) << dropped - 1).astype(np.int32).view(np.float32)
    middles[lower_ranks < 0] = 0.0
    np.minimum(middles, np.maximum.reduce(magnitudes), out=middles)
    lowest_exponent = lowest - 127 if by_exponent else 0
    return Distribution(tuple(middles.tolist()), lowest_exponent, by_exponent, zeros, True, magnitudes)
