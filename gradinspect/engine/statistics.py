"""From a tensor to a few numbers, in one read of its memory where that is possible.

Sums are accumulated in float64 over blocks of 65,536 elements, each block in the tensor's own precision with pairwise
or BLAS summation: a plain float32 norm of 3·10⁷ values is wrong by 1e-3, this one by less than 1e-7. Blocks whose
squares would leave float32's range are read again in float64, because a gradient of 1e-25 is not zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 65_536
SAMPLE = 16_384  # quantiles and histograms are exact up to this size, and look at about as many elements above it
QUANTILES = (0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99)
_SAFE_LOW, _SAFE_HIGH = 1e-15, 1e15  # magnitudes whose squares stay far inside float32

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all elements of a tensor.

    `nan_count` and `inf_count` are counted exactly; the other figures are NaN when either is not zero.
    """

    numel: int
    total: float
    square_total: float
    abs_total: float
    abs_max: float
    nonzero: int
    nan_count: int = 0
    inf_count: int = 0

    @property
    def norm(self) -> float:
        """l2 norm."""
        return math.sqrt(self.square_total)

    @property
    def rms(self) -> float:
        """Root of the mean square; NaN for an empty tensor."""
        return math.sqrt(self.square_total / self.numel) if self.numel else math.nan

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return self.total / self.numel if self.numel else math.nan

    @property
    def std(self) -> float:
        """Population standard deviation."""
        if not self.numel:
            return math.nan
        return math.sqrt(max(self.square_total / self.numel - self.mean**2, 0.0))

    @property
    def abs_mean(self) -> float:
        """Mean of |x|."""
        return self.abs_total / self.numel if self.numel else math.nan

    @property
    def zero_fraction(self) -> float:
        """Share of elements that are exactly zero."""
        return 1.0 - self.nonzero / self.numel if self.numel else math.nan


def flat_array(tensor: torch.Tensor) -> Array:
    """View a tensor's values as a flat NumPy array of float32 or float64, without a copy where that is possible."""
    values = tensor.detach()
    if values.device.type != "cpu":
        values = values.cpu()
    if values.is_sparse:
        values = values.coalesce().values()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32)
    return values.reshape(-1).numpy()


def moments(tensor: torch.Tensor) -> Moments:
    """Sum, sum of squares, sum and maximum of magnitudes, non-zero and non-finite counts of a tensor."""
    return array_moments(flat_array(tensor))


def array_moments(values: Array) -> Moments:
    """`moments` of a flat array."""
    total = square_total = abs_total = abs_max = 0.0
    nonzero = nan_count = inf_count = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        magnitudes = np.abs(block)
        largest = float(magnitudes.max())
        if not math.isfinite(largest):
            nan_count += int(np.isnan(block).sum())
            inf_count += int(np.isinf(block).sum())
            nonzero += int(np.count_nonzero(block))
            continue
        if largest == 0.0:
            continue
        if not _SAFE_LOW < largest < _SAFE_HIGH and block.dtype == np.float32:
            block = block.astype(np.float64)
            magnitudes = np.abs(block)
        total += float(block.sum())
        square_total += float(np.dot(block, block))
        abs_total += float(magnitudes.sum())
        abs_max = max(abs_max, largest)
        nonzero += int(np.count_nonzero(magnitudes != 0))
    if nan_count or inf_count:
        return Moments(values.size, math.nan, math.nan, math.nan, math.nan, nonzero, nan_count, inf_count)
    return Moments(values.size, total, square_total, abs_total, abs_max, nonzero)


@dataclass(frozen=True, slots=True)
class Amplitude:
    """Mean, spread and size of a tensor's values; NaN in all but the counts when a value is not finite."""

    numel: int
    mean: float
    rms: float
    abs_max: float
    nonfinite_count: int = 0

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(max(self.rms**2 - self.mean**2, 0.0))


def amplitude(tensor: torch.Tensor) -> Amplitude:
    """`moments` without magnitudes' sum and zero count: about half the cost, for tensors read once a layer."""
    values = flat_array(tensor)
    total = square_total = abs_max = 0.0
    nonfinite = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        largest = max(float(block.max()), -float(block.min()))
        if not math.isfinite(largest):
            nonfinite += int(block.size - np.isfinite(block).sum())
            continue
        if not _SAFE_LOW < largest < _SAFE_HIGH and block.dtype == np.float32:
            block = block.astype(np.float64)
        total += float(block.sum())
        square_total += float(np.dot(block, block))
        abs_max = max(abs_max, largest)
    if nonfinite or not values.size:
        return Amplitude(values.size, math.nan, math.nan, math.nan, nonfinite)
    return Amplitude(values.size, total / values.size, math.sqrt(square_total / values.size), abs_max)


def norm(tensor: torch.Tensor) -> float:
    """l2 norm, accurate for tensors of any size and any magnitude that their dtype holds; NaN when not finite."""
    values = flat_array(tensor)
    if values.size <= BLOCK:
        square = float(np.dot(values, values))
        # Between these bounds no square can have left float32's range without showing in the sum.
        if 1e-24 * values.size < square < 1e30:
            return math.sqrt(square)
    return array_moments(values).norm


def dot(left: torch.Tensor, right: torch.Tensor) -> float:
    """Inner product of two tensors of one shape, accumulated in float64 over blocks."""
    a, b = flat_array(left), flat_array(right)
    return sum(float(np.dot(a[i : i + BLOCK], b[i : i + BLOCK])) for i in range(0, a.size, BLOCK))


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
    """Quantiles and log2 histogram of |x|.

    Exact up to `SAMPLE` elements. Above, a strided sample is binned by its leading bits (8 exponent and 6 mantissa
    bits of a float32): quantiles then carry a relative error of at most 2⁻⁷ from the binning and a rank error of
    standard deviation at most 0.005 from the sampling. Sorting the sample would cost more than all other statistics.
    """
    values = flat_array(tensor)
    if values.size <= SAMPLE:
        magnitudes = np.abs(values)
        lowest, counts = _exponent_counts(magnitudes)
        return Distribution(_exact_quantiles(magnitudes), lowest, counts, _zeros(magnitudes), False, magnitudes)
    # An odd stride visits all columns of a matrix with an even width; rounding it up covers the tensor to its end.
    magnitudes = np.abs(values[:: values.size // SAMPLE | 1])
    if magnitudes.dtype == np.float64:
        lowest, counts = _exponent_counts(magnitudes)
        return Distribution(_exact_quantiles(magnitudes), lowest, counts, _zeros(magnitudes), True, magnitudes)
    quantiles, lowest, counts = _binned(magnitudes)
    return Distribution(quantiles, lowest, counts, _zeros(magnitudes), True, magnitudes)


def _zeros(magnitudes: Array) -> int:
    return int(magnitudes.size - np.count_nonzero(magnitudes != 0))


def _exact_quantiles(magnitudes: Array) -> tuple[float, ...]:
    count = magnitudes.size
    if count == 0:
        return (math.nan,) * len(QUANTILES)
    positions = [q * (count - 1) for q in QUANTILES]
    lower = [int(position) for position in positions]
    upper = [min(index + 1, count - 1) for index in lower]
    ranked = np.partition(magnitudes, sorted({*lower, *upper})) if count > 256 else np.sort(magnitudes)
    return tuple(
        float(ranked[low]) + (position - low) * (float(ranked[high]) - float(ranked[low]))
        for position, low, high in zip(positions, lower, upper, strict=True)
    )


def _exponent_counts(magnitudes: Array) -> tuple[int, tuple[int, ...]]:
    mantissa_bits, bias, integer = (23, 127, np.int32) if magnitudes.dtype == np.float32 else (52, 1023, np.int64)
    codes = np.right_shift(np.ascontiguousarray(magnitudes).view(integer), mantissa_bits)
    counts = np.bincount(codes, minlength=1)
    counts[0] -= _zeros(magnitudes)  # zeros share the code of subnormals
    return _trimmed(counts, -bias)


def _trimmed(counts: np.ndarray[tuple[int, ...], np.dtype[np.int_]], offset: int) -> tuple[int, tuple[int, ...]]:
    present = np.flatnonzero(counts)
    if present.size == 0:
        return 0, ()
    first, last = int(present[0]), int(present[-1])
    return first + offset, tuple(counts[first : last + 1].tolist())


_FINE_BITS = 6


def _binned(magnitudes: Array) -> tuple[tuple[float, ...], int, tuple[int, ...]]:
    """Quantiles and exponent counts of float32 magnitudes from one count of their leading bits."""
    shift = 23 - _FINE_BITS
    codes = np.ascontiguousarray(magnitudes).view(np.int32) >> shift
    lowest = int(codes.min()) >> _FINE_BITS << _FINE_BITS  # a whole exponent, so that the counts fold below
    exponents = (int(codes.max()) - lowest >> _FINE_BITS) + 1
    counts = np.bincount(codes - lowest, minlength=exponents << _FINE_BITS)
    ranks = np.cumsum(counts)
    bins = np.searchsorted(ranks, [q * (magnitudes.size - 1) for q in QUANTILES], side="right")
    edges = ((np.stack([bins, bins + 1]) + lowest) << shift).astype(np.int32).view(np.float32)
    quantiles = tuple(edges.mean(axis=0, dtype=np.float64).tolist())
    by_exponent = counts.reshape(exponents, 1 << _FINE_BITS).sum(axis=1)
    if lowest == 0:
        by_exponent[0] -= _zeros(magnitudes)
        quantiles = tuple(0.0 if index == 0 else value for index, value in zip(bins.tolist(), quantiles, strict=True))
    return quantiles, *_trimmed(by_exponent, (lowest >> _FINE_BITS) - 127)
