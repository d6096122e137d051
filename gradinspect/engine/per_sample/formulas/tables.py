"""Per-sample gradients of lookup tables."""

from __future__ import annotations

import torch

from gradinspect.engine.per_sample.formulas.factors import Factor, Lookups
from gradinspect.engine.per_sample.formulas.registry import formula, without_padding
from gradinspect.engine.per_sample.formulas.sample_rows import rows_by_sample
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout
from gradinspect.engine.tracing.operator_names import NODE_LOOKUP


@formula(NODE_LOOKUP, slot=0)
def embedding_table(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return δ_np for row i_np; None with `scale_grad_by_freq`, which counts indices over the whole batch."""
    saved = saved_by(use.node)
    if saved._saved_scale_grad_by_freq:
        return None
    values = rows_by_sample(signal.reshape(-1, signal.shape[-1]), layout)
    flat = saved._saved_indices.reshape(-1, 1)
    indices = rows_by_sample(flat, Layout(layout.outer, layout.samples, layout.inner // signal.shape[-1]))
    if values is None or indices is None:
        return None
    return Lookups(without_padding(indices[:, :, 0], saved._saved_padding_idx), values)
