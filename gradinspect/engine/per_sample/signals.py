"""Backward signals of chosen autograd nodes, shown one by one during a single backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch.autograd.graph import GradientEdge, Node

SignalHook = Callable[[Node, torch.Tensor], None]


def visit_signals(
    output: torch.Tensor,
    cotangent: torch.Tensor,
    nodes: Iterable[Node],
    stops: Sequence[Node],
    hook: SignalHook,
    *,
    retain_graph: bool,
) -> None:
    """Send a cotangent backwards and show each node the gradient with respect to its output, once.

    Args:
        output: where the pass starts.
        cotangent: of the output's shape.
        nodes: the nodes to show.
        stops: those of `nodes` below which the pass need not go (`parameter_uses.lowest`).
        hook: called under `no_grad` with a node and its signal; not called for nodes that get none.
        retain_graph: keep the graph for another pass.
    """
    is_stop = set(stops)
    handles = [node.register_prehook(partial(_show_first, hook, node)) for node in nodes if node not in is_stop]
    try:
        # A scalar needs no `grad_outputs`, whose shape check makes torch import a computer algebra system.
        scalar = (output * cotangent).sum()
        signals = torch.autograd.grad(
            scalar, [GradientEdge(node, 0) for node in stops], retain_graph=retain_graph, allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    for node, signal in zip(stops, signals, strict=True):
        _show_first(hook, node, (signal,))


def _show_first(hook: SignalHook, node: Node, gradients: Sequence[torch.Tensor | None]) -> None:
    if gradients[0] is not None:
        with torch.no_grad():
            hook(node, gradients[0])
