"""Registry of the formulas: autograd node and input slot → per-sample gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd.graph import Node

from gradinspect.engine.per_sample.formulas.factors import Factor, Lookups, Vectors
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout

Formula = Callable[[Use, torch.Tensor, Layout], Factor | None]

_NO_PADDING = 2**62  # autograd saves `padding_idx` −1 as 2⁶⁴ − 1

_FORMULAS: dict[tuple[str, int], Formula] = {}
_ELEMENTWISE: set[str] = set()


def formula(node: str, slot: int, *, elementwise: bool = False) -> Callable[[Formula], Formula]:
    """Register the decorated function as the formula of a parameter in one input slot of an autograd node.

    The function receives the use, the signal δ (gradient with respect to the operation's output, float32 or float64)
    and the layout of the samples in δ. It returns None where the operation's arguments have no per-sample gradient.

    Args:
        node: name of the autograd node, such as `AddmmBackward0`.
        slot: index of the parameter among the node's inputs.
        elementwise: True for operations whose parameter is only broadcast over the data.
    """

    def register(function: Formula) -> Formula:
        _FORMULAS[node, slot] = function
        if elementwise:
            _ELEMENTWISE.add(node)
        return function

    return register


def has_formula(use: Use) -> bool:
    """Check whether the operation has a formula; its arguments may still rule it out."""
    return (use.node.name(), use.slot) in _FORMULAS


def is_elementwise(use: Use) -> bool:
    """Check whether the operation only broadcasts its parameter over the data."""
    return use.node.name() in _ELEMENTWISE


def factor_of(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Compute the per-sample gradients that one use adds to its parameter; None where there is no formula.

    Args:
        use: the operation and the parameter in it.
        signal: δ, the gradient with respect to the operation's output.
        layout: which elements of δ belong to which sample.
    """
    function = _FORMULAS.get((use.node.name(), use.slot))
    if signal.dtype not in (torch.float32, torch.float64):
        signal = signal.float()
    factor = function(use, signal, layout) if function is not None else None
    if use.lookup is None or factor is None:
        return factor
    return _through_lookup(use.lookup, factor, use.shape[-1]) if isinstance(factor, Vectors) else None


def without_padding(indices: torch.Tensor, padding: int) -> torch.Tensor:
    """Replace the indices of the padding row by −1."""
    return torch.where(indices == padding, -1, indices) if padding < _NO_PADDING else indices


def _through_lookup(table: Node, factor: Vectors, width: int) -> Factor | None:
    """Turn gradients of a lookup's output into gradients of the table, whose rows all samples share."""
    saved = saved_by(table)
    if saved._saved_scale_grad_by_freq:
        return None
    samples = factor.values.shape[0]
    indices = saved._saved_indices.reshape(1, -1).expand(samples, -1)
    return Lookups(without_padding(indices, saved._saved_padding_idx), factor.values.reshape(samples, -1, width))
