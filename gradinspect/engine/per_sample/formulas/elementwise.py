"""Per-sample gradients of element-wise operations whose parameter is broadcast over the samples: sums of weight·δ."""

from __future__ import annotations

import math

import torch

from gradinspect.engine.per_sample.formulas.factors import Factor, Vectors
from gradinspect.engine.per_sample.formulas.registry import formula
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout


@formula("AddBackward0", slot=0, elementwise=True)
@formula("SubBackward0", slot=0, elementwise=True)
@formula("ExpandBackward0", slot=0, elementwise=True)
def plain_term(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ δ."""
    return _broadcast_sum(signal, use.shape, layout)


@formula("AddBackward0", slot=1, elementwise=True)
def added_term(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return α·Σ δ."""
    return _broadcast_sum(_scaled(signal, float(saved_by(use.node)._saved_alpha)), use.shape, layout)


@formula("SubBackward0", slot=1, elementwise=True)
def subtracted_term(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return −α·Σ δ."""
    return _broadcast_sum(_scaled(signal, -float(saved_by(use.node)._saved_alpha)), use.shape, layout)


@formula("MulBackward0", slot=0, elementwise=True)
def first_factor(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ δ·(the second factor)."""
    return _broadcast_sum(_weighted(signal, saved_by(use.node)._saved_other), use.shape, layout)


@formula("MulBackward0", slot=1, elementwise=True)
def second_factor(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ δ·(the first factor)."""
    return _broadcast_sum(_weighted(signal, saved_by(use.node)._saved_self), use.shape, layout)


@formula("PreluKernelBackward0", slot=1, elementwise=True)
def prelu_slope(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ δ·min(x, 0)."""
    return _broadcast_sum(_weighted(signal, saved_by(use.node)._saved_self.clamp(max=0)), use.shape, layout)


@formula("RepeatBackward0", slot=0, elementwise=True)
def repeated(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return δ_n for a parameter that is repeated once for each sample, as instance normalisation does."""
    if layout.outer != 1 or layout.inner != math.prod(use.shape):
        return None
    return Vectors(signal.reshape(layout.samples, -1))


def _scaled(signal: torch.Tensor, factor: float) -> torch.Tensor:
    return signal * factor if factor != 1.0 else signal


def _weighted(signal: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if weight.shape != signal.shape and weight.dim() <= signal.dim():
        weight = weight.expand(signal.shape)
    return signal * weight


def _broadcast_sum(values: torch.Tensor, shape: tuple[int, ...], layout: Layout) -> Vectors | None:
    """Sum each sample's part of `values` down to `shape`, which broadcasts to the shape of `values`."""
    full = (1,) * (values.dim() - len(shape)) + shape
    axis = _sample_axis(tuple(values.shape), layout)
    if axis is None or full[axis] != 1:
        return None
    before, size, after = values.shape[:axis], values.shape[axis], values.shape[axis + 1 :]
    inner = layout.inner // math.prod(after)
    split = values.reshape(*before, size // layout.samples // inner, layout.samples, inner, *after)
    moved = split.movedim(axis + 1, 0)  # (samples, …)
    target = (*full[:axis], 1, 1, *full[axis + 1 :])
    summed = [position + 1 for position, length in enumerate(target) if length == 1]
    return Vectors((moved.sum(summed) if summed else moved).reshape(layout.samples, -1))


def _sample_axis(shape: tuple[int, ...], layout: Layout) -> int | None:
    """Return the axis that holds the samples, alone or folded with others."""
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        if layout.inner % inner == 0 and shape[axis] % (layout.samples * (layout.inner // inner)) == 0:
            return axis
    return None
