"""Rows of a signal, grouped by sample."""

from __future__ import annotations

import torch

from gradinspect.engine.per_sample.formulas.factors import Vectors
from gradinspect.engine.per_sample.sample_layout import Layout


def rows_by_sample(rows: torch.Tensor, layout: Layout) -> torch.Tensor | None:
    """Reorder (rows, width) to (samples, positions, width); None where a row holds elements of several samples.

    >>> rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # two positions of two samples, positions first
    >>> rows_by_sample(rows, Layout(outer=2, samples=2, inner=1)).tolist()
    [[[1.0], [3.0]], [[2.0], [4.0]]]
    """
    width = rows.shape[-1]
    if layout.inner % width:
        return None
    parts = rows.reshape(layout.outer, layout.samples, layout.inner // width, width)
    if layout.outer == 1:
        return parts[0]
    return parts.transpose(0, 1).reshape(layout.samples, -1, width)


def summed_rows(rows: torch.Tensor, signal: torch.Tensor, layout: Layout) -> Vectors | None:
    """Sum values over the rows of each sample.

    Args:
        rows: (signal.shape[0], width), one row of values for each index of the signal's first axis.
        signal: the tensor that `layout` describes.
        layout: which elements of the signal belong to which sample.
    """
    step = signal.numel() // signal.shape[0]
    if layout.inner % step:
        return None
    parts = rows_by_sample(rows, Layout(layout.outer, layout.samples, layout.inner // step * rows.shape[-1]))
    return Vectors(parts.sum(1)) if parts is not None else None


def channel_sums(signal: torch.Tensor, layout: Layout) -> Vectors | None:
    """Sum (batch, channels, …) over everything but samples and channels: the gradient of a shift for each channel."""
    return summed_rows(signal.flatten(2).sum(2) if signal.dim() > 2 else signal, signal, layout)
