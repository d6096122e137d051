"""Per-sample gradients of matrix products x·W + b with the parameter as second matrix."""

from __future__ import annotations

import math

import torch

from gradinspect.engine.per_sample.formulas.factors import Factor, Products, Vectors
from gradinspect.engine.per_sample.formulas.registry import formula
from gradinspect.engine.per_sample.formulas.sample_rows import rows_by_sample
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout


@formula("AddmmBackward0", slot=2)
def addmm_weight(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return α·Σ_p δ_np ⊗ x_np."""
    saved = saved_by(use.node)
    return _products(signal, saved._saved_mat1, float(saved._saved_alpha), layout)


@formula("AddmmBackward0", slot=0)
def addmm_bias(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return β·Σ_p δ_np for a bias that is added to each row; None for a bias that is a matrix."""
    if math.prod(use.shape) != signal.shape[-1]:
        return None
    parts = rows_by_sample(signal, layout)
    beta = float(saved_by(use.node)._saved_beta)
    return Vectors(parts.sum(1) * beta) if parts is not None else None


@formula("MmBackward0", slot=1)
def mm_weight(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np ⊗ x_np."""
    return _products(signal, saved_by(use.node)._saved_self, 1.0, layout)


def _products(signal: torch.Tensor, data: torch.Tensor, factor: float, layout: Layout) -> Products | None:
    outer_side = rows_by_sample(signal, layout)
    data = data.to(signal.dtype)
    inner_layout = Layout(layout.outer, layout.samples, layout.inner // signal.shape[-1] * data.shape[-1])
    inner_side = rows_by_sample(data, inner_layout)
    if outer_side is None or inner_side is None:
        return None
    left, right = (outer_side * factor if factor != 1.0 else outer_side).unsqueeze(1), inner_side.unsqueeze(1)
    samples, _, positions, outputs = left.shape
    return Products(left.__getitem__, right.__getitem__, (samples, 1, positions, outputs, right.shape[-1]))
