"""Count dead units, and measure how parallel the samples' representations are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import Values, strided_chunks
from gradinspect.engine.arrays.host_arrays import Array

Counts = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
DEAD_SHARE = 0.99  # a unit is dead when it is exactly 0 for at least this share of samples and positions
ACTIVATION_SAMPLE = 65_536  # approximate number of elements of a larger output used for similarities and slopes
_SCREENED = 65_536  # elements; larger outputs are screened:
_SCREEN = 64  # rows that are read first, because most units have enough non-zero values there


@dataclass(frozen=True, slots=True)
class UnitReading:
    """Share of dead units, and mean pairwise cosine similarity between samples; None where undefined."""

    dead_fraction: float | None
    similarity: float | None


NO_UNITS = UnitReading(None, None)


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Meaning of the axes of an output, and whether a rectifier made it.

    Attributes:
        shape: as the module returns it, with an axis for samples; the tensor may have leading axes folded.
        samples: number of samples in the batch.
        channels_first: units are on axis 1 (convolutions and their norms), else on the last axis.
        is_rectified: φ′ is 1 where the output is positive, and 0 elsewhere.
    """

    shape: tuple[int, ...]
    samples: int
    channels_first: bool = False
    is_rectified: bool = False


def read_units(values: Array, layout: OutputLayout) -> tuple[UnitReading, int | None]:
    """Read one output on the host.

    Returns:
        The reading, and the number of elements that are not zero; None where not all were counted.

    Cost: most units are alive, which shows in the first few rows; two passes over at most `ACTIVATION_SAMPLE`
        elements for the similarity.
    """
    if not has_units(values):
        return NO_UNITS, None
    units = units_last(values, layout)
    dead, nonzero = _count_dead(units)
    rows = sample_rows(values, layout)
    similarity = None if rows is None else similarity_from(*_pair_sums(rows))
    return UnitReading(dead / units.shape[-1], similarity), nonzero


def has_units(values: torch.Tensor | Array) -> bool:
    """Check that there is an axis of units next to one of samples, and that no axis is empty."""
    return len(values.shape) >= 2 and 0 not in values.shape


def units_last(values: Values, layout: OutputLayout) -> Values:
    """Reshape to (blocks, rows, units): units on the last axis, samples and positions before it."""
    if layout.channels_first and math.prod(layout.shape) == math.prod(values.shape):
        values = values.reshape(layout.shape)
    if layout.channels_first and len(values.shape) > 2:
        return values.reshape(*values.shape[:2], -1).swapaxes(1, 2)  # (batch, positions, channels)
    return values.reshape(1, -1, values.shape[-1])  # (1, samples × positions, units)


def _count_dead(values: Array) -> tuple[int, int | None]:
    """Count units (last axis) that are non-zero in at most a hundredth of the rows (first two axes).

    A unit with more non-zero values than that in a part of the rows is alive whatever the other rows are.

    Returns:
        The count, and the number of values that are not zero; None where not all were counted.
    """
    blocks, rows, units = values.shape
    limit = (1 - DEAD_SHARE) * blocks * rows
    if values.size <= _SCREENED:
        by_unit = _count_nonzero(values.reshape(-1, units))
        return int(np.count_nonzero(by_unit <= limit)), int(np.add.reduce(by_unit))
    if blocks == 1:  # make each row a block, without a copy
        values, blocks, rows = values.transpose(1, 0, 2), rows, 1
    undecided: Counts | None = None
    seen = np.zeros(units, np.intp)
    start, step = 0, max(max(_SCREEN, math.ceil(2 * limit)) // rows, 1)
    while start < blocks:
        part = values[start : start + step].reshape(-1, units)
        seen += _count_nonzero(part if undecided is None else part[:, undecided])
        left = np.flatnonzero(seen <= limit)
        if not left.size:
            return 0, None
        undecided, seen = left if undecided is None else undecided[left], seen[left]
        start, step = start + step, 4 * step
    return seen.size, None


def _count_nonzero(rows: Array) -> Counts:
    on = (rows != 0).view(np.uint8)
    if len(on) < 256:  # the count fits a byte, and bytes are added 64 at a time
        few: Counts = np.add.reduce(on, axis=0, dtype=np.uint8).astype(np.intp)
        return few
    whole = len(on) - len(on) % 255
    in_255s = np.add.reduce(on[:whole].reshape(-1, 255, on.shape[1]), axis=1, dtype=np.uint8)
    counts: Counts = in_255s.sum(axis=0, dtype=np.intp) + np.add.reduce(on[whole:], axis=0, dtype=np.uint8)
    return counts


def sample_rows(values: Values, layout: OutputLayout) -> Values | None:
    """Return one row of features for each sample, a part of them where there are many; None without a samples axis."""
    shape, samples = layout.shape, layout.samples
    if samples < 2 or math.prod(shape) != math.prod(values.shape):
        return None
    if shape[0] == samples:
        rows = values.reshape(samples, -1)  # (samples, features)
    elif len(shape) > 1 and shape[1] == samples:
        rows = values.reshape(shape).swapaxes(0, 1).reshape(samples, -1)
    else:
        return None
    return strided_chunks(rows, max(ACTIVATION_SAMPLE // samples, 16))


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def _pair_sums(rows: Array) -> tuple[float, int]:
    """Compute `pair_sums` on the host."""
    squares = np.vecdot(rows, rows)
    if 1e-30 < np.minimum.reduce(squares) <= np.maximum.reduce(squares) < 1e30:
        inverse = 1 / np.sqrt(squares)
    elif rows.dtype == np.float32:
        return _pair_sums(rows.astype(np.float64))
    else:
        inverse = np.where(squares > 0, 1 / np.sqrt(squares), 0.0)
    total = inverse @ rows
    return float(total.dot(total)), int(np.count_nonzero(squares))


def pair_sums(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ‖Σ uᵢ‖² over the samples' unit vectors uᵢ, and the number of samples that are not zero.

    Σ_{i≠j} uᵢ·uⱼ = ‖Σ uᵢ‖² − Σ‖uᵢ‖²: all pairs at the cost of one sum.
    """
    norms = torch.linalg.vector_norm(rows, dim=1)
    total = torch.where(norms > 0, 1 / norms, 0.0) @ rows
    return torch.dot(total, total), torch.count_nonzero(norms)


def similarity_from(squared: float, used: float) -> float | None:
    """Compute the mean cosine over pairs of samples from `pair_sums`; None for fewer than two non-zero samples.

    >>> similarity_from(4.0, 2)  # two equal unit vectors
    1.0
    """
    if used < 2:
        return None
    value = (squared - used) / (used * (used - 1))
    return max(-1.0, min(1.0, value)) if math.isfinite(value) else None
