"""Summarize a tensor in host memory by a few numbers, in one read of its memory where that is possible.

Sums are accumulated in float64 over chunks of 1,024 elements, each chunk in the tensor's own precision by BLAS: a plain
float32 norm of 3·10⁷ values is wrong by 1e-3, this one by less than 1e-6. Blocks whose squares would leave float32's
range are read again in float64, because a gradient of 1e-25 is not zero. Quantiles are in `distributions`, readings
on an accelerator in `tracing/device_ledger`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from threading import local

import numpy as np
import torch

from gradinspect.engine.arrays.host_arrays import Array, flat_array

BLOCK = 65_536  # elements that are read at once: 256 KiB stay in the cache from one sum to the next
_CHUNK = 1_024
_SAFE_LOW, _SAFE_HIGH = 1e-15, 1e15  # magnitudes whose squares stay far inside float32
# A sum of squares between these, the lower one for each element, shows that no square has left float32's range.
_SQUARES_LOW, _SQUARES_HIGH = 1e-24, 1e30

_ONES = {dtype: np.ones(_CHUNK, dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}
_BITS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}  # counted faster than floating-point numbers
_quietly = np.errstate(invalid="ignore", over="ignore")  # NaN and infinity are findings here, not warnings


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all elements of a tensor.

    `nan_count` and `inf_count` are exact; the sums are NaN when either is not zero.
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
    def is_finite(self) -> bool:
        """Whether every element is finite."""
        return not (self.nan_count or self.inf_count)

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


def moments(tensor: torch.Tensor) -> Moments:
    """Compute sum, sum of squares, sum and maximum of magnitudes, non-zero and non-finite counts of a tensor.

    >>> moments(torch.tensor([3.0, -4.0])).norm
    5.0
    """
    stored = array_moments(flat_array(tensor))
    # A sparse tensor has zeros that are not stored.
    return stored if stored.numel == tensor.numel() else replace(stored, numel=tensor.numel())


@_quietly
def array_moments(values: Array) -> Moments:
    """Compute `moments` of a flat array."""
    total = square_total = abs_total = abs_max = 0.0
    nonzero = nan_count = inf_count = 0
    scratch = _scratch(values.dtype)
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        magnitudes = np.abs(block, out=scratch[: block.size])
        largest = float(np.maximum.reduce(magnitudes))
        if not math.isfinite(largest):
            nan_count += int(np.isnan(block).sum())
            inf_count += int(np.isinf(block).sum())
            nonzero += int(np.count_nonzero(block))
            continue
        if largest == 0.0:
            continue
        nonzero += int(np.count_nonzero(magnitudes.view(_BITS[magnitudes.dtype])))
        if not _SAFE_LOW < largest < _SAFE_HIGH and block.dtype == np.float32:
            block = block.astype(np.float64)
            magnitudes = np.abs(block)
        total += _total(block)
        square_total += _inner(block, block)
        abs_total += _total(magnitudes)
        abs_max = max(abs_max, largest)
    if nan_count or inf_count:
        return Moments(values.size, math.nan, math.nan, math.nan, math.nan, nonzero, nan_count, inf_count)
    return Moments(values.size, total, square_total, abs_total, abs_max, nonzero)


class _Buffers(local):
    """One block of memory for each precision, reused by a thread: fresh memory costs more than the sums."""

    def __init__(self) -> None:
        self.of_dtype: dict[np.dtype[np.floating], Array] = {}


_buffers = _Buffers()


def _scratch(dtype: np.dtype[np.floating]) -> Array:
    buffer = _buffers.of_dtype.get(dtype)
    if buffer is None:
        buffer = _buffers.of_dtype[dtype] = np.empty(BLOCK, dtype)
    return buffer


@_quietly
def row_moments(values: Array) -> list[Moments]:
    """Compute `moments` of each row of an array (tensors, elements) of small tensors."""
    magnitudes = np.abs(values)
    largest = np.maximum.reduce(magnitudes, axis=1, initial=0.0)  # of a tensor without elements
    safe = ((largest > _SAFE_LOW) & (largest < _SAFE_HIGH)).tolist()
    sums = [np.add.reduce(part, axis=1).tolist() for part in (values, values * values, magnitudes)]
    nonzero = np.count_nonzero(values, axis=1).tolist()
    columns = zip(*sums, largest.tolist(), nonzero, strict=True)
    size = values.shape[1]
    return [
        Moments(size, *row_sums) if is_safe else array_moments(row)
        for row, is_safe, row_sums in zip(values, safe, columns, strict=True)
    ]


@_quietly
def row_products(left: Array, right: Array) -> list[float]:
    """Compute the inner product of each pair of rows."""
    products: list[float] = np.add.reduce(left * right, axis=1).tolist()
    return products


@dataclass(frozen=True, slots=True)
class MeanAndRms:
    """Mean and root mean square of a tensor; NaN when a value is not finite."""

    numel: int
    mean: float
    rms: float
    nonfinite_count: int = 0

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(max(self.rms**2 - self.mean**2, 0.0))

    @property
    def norm(self) -> float:
        """l2 norm."""
        return self.rms * math.sqrt(self.numel) if self.numel else 0.0


@dataclass(frozen=True, slots=True)
class Amplitude(MeanAndRms):
    """Mean, root mean square and largest magnitude of a tensor."""

    abs_max: float = math.nan


def amplitude(tensor: torch.Tensor) -> Amplitude:
    """Compute mean, rms and largest magnitude: about half the cost of `moments`, for tensors read once a layer."""
    return array_amplitude(flat_array(tensor))


@_quietly
def array_amplitude(values: Array) -> Amplitude:
    """Compute `amplitude` of a flat array."""
    total = square_total = abs_max = 0.0
    nonfinite = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        largest = max(float(np.maximum.reduce(block)), -float(np.minimum.reduce(block)))
        if not math.isfinite(largest):
            nonfinite += int(block.size - np.isfinite(block).sum())
            continue
        if not _SAFE_LOW < largest < _SAFE_HIGH and block.dtype == np.float32:
            block = block.astype(np.float64)
        total += _total(block)
        square_total += _inner(block, block)
        abs_max = max(abs_max, largest)
    if nonfinite or not values.size:
        return Amplitude(values.size, math.nan, math.nan, nonfinite)
    return Amplitude(values.size, total / values.size, math.sqrt(square_total / values.size), 0, abs_max)


@_quietly
def mean_and_rms(tensor: torch.Tensor) -> MeanAndRms:
    """Compute mean and rms: two reads of the memory instead of the four of `amplitude`."""
    values = flat_array(tensor)
    total = square_total = 0.0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        square = _inner(block, block)
        if not _SQUARES_LOW * block.size < square < _SQUARES_HIGH:  # zero, not finite, or beyond float32's squares
            return amplitude(tensor)
        total += _total(block)
        square_total += square
    return MeanAndRms(values.size, total / max(values.size, 1), math.sqrt(square_total / max(values.size, 1)))


@_quietly
def norm(tensor: torch.Tensor) -> float:
    """Compute the l2 norm, accurate for any size and any magnitude that the dtype holds; NaN when not finite."""
    values = flat_array(tensor)
    square = _inner(values, values)
    if _SQUARES_LOW * values.size < square < _SQUARES_HIGH:
        return math.sqrt(square)
    return array_moments(values).norm


@_quietly
def dot(left: torch.Tensor, right: torch.Tensor) -> float:
    """Compute the inner product of two tensors of one shape, accumulated in float64 over chunks."""
    return _inner(flat_array(left, in_order=True), flat_array(right, in_order=True))


def _inner(left: Array, right: Array) -> float:
    """Compute Σ left·right: chunks by BLAS in the arrays' own precision, their sum in float64."""
    rest = left.size % _CHUNK
    if not rest:
        return _sum(np.vecdot(left.reshape(-1, _CHUNK), right.reshape(-1, _CHUNK)))
    tail = float(left[-rest:].dot(right[-rest:]))
    return tail if rest == left.size else tail + _inner(left[:-rest], right[:-rest])


def _total(values: Array) -> float:
    """Compute Σ values, in the same way."""
    ones = _ONES[values.dtype]
    rest = values.size % _CHUNK
    if not rest:
        return _sum(np.vecdot(values.reshape(-1, _CHUNK), ones))
    tail = float(values[-rest:].dot(ones[:rest]))
    return tail if rest == values.size else tail + _total(values[:-rest])


def _sum(parts: Array) -> float:
    numbers: list[float] = parts.tolist()
    return sum(numbers)
