"""Per-sample gradients of gains and shifts of normalisations: Σ_p δ_np·x̂_np and Σ_p δ_np, x̂ the standardised input."""

from __future__ import annotations

import math

import torch

from gradinspect.engine.per_sample.formulas.factors import Factor, Vectors
from gradinspect.engine.per_sample.formulas.registry import formula
from gradinspect.engine.per_sample.formulas.sample_rows import channel_sums, rows_by_sample, summed_rows
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout


@formula("NativeLayerNormBackward0", slot=1)
def layer_norm_gain(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np·x̂_np over the normalised axes' positions."""
    saved = saved_by(use.node)
    standard = (saved._saved_input.to(signal.dtype) - saved._saved_result1) * saved._saved_result2
    return _over_last_axes(signal * standard, use, layout)


@formula("NativeLayerNormBackward0", slot=2)
def layer_norm_shift(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np over the normalised axes' positions."""
    return _over_last_axes(signal, use, layout)


@formula("NativeGroupNormBackward0", slot=1)
def group_norm_gain(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np·x̂_np for each channel."""
    saved = saved_by(use.node)
    rows, groups = signal.shape[0], saved._saved_group
    data = saved._saved_input.to(signal.dtype).reshape(rows, groups, -1)
    standard = (data - saved._saved_result1.reshape(rows, groups, 1)) * saved._saved_result2.reshape(rows, groups, 1)
    product = (signal.reshape(rows, groups, -1) * standard).reshape(rows, signal.shape[1], -1)
    return summed_rows(product.sum(2), signal, layout)


@formula("NativeBatchNormBackward0", slot=1)
def batch_norm_gain(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np·x̂_np for each channel.

    Running statistics standardise each sample alone. With the batch's statistics x̂ depends on all samples, but the
    gain acts after them, so its gradient is still a sum over samples.
    """
    saved = saved_by(use.node)
    data = saved._saved_input.to(signal.dtype)
    if saved._saved_training:
        mean, scale = saved._saved_result1, saved._saved_result2
    else:
        mean, scale = saved._saved_running_mean, (saved._saved_running_var + saved._saved_eps).rsqrt()
    shape = (1, -1) + (1,) * (data.dim() - 2)
    product = signal * ((data - mean.reshape(shape)) * scale.reshape(shape))
    return channel_sums(product, layout)


@formula("NativeGroupNormBackward0", slot=2)
@formula("NativeBatchNormBackward0", slot=2)
def channel_shift(_use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np for each channel."""
    return channel_sums(signal, layout)


def _over_last_axes(values: torch.Tensor, use: Use, layout: Layout) -> Vectors | None:
    parts = rows_by_sample(values.reshape(-1, math.prod(use.shape)), layout)
    return Vectors(parts.sum(1)) if parts is not None else None
