"""The second backward pass, node by node: the largest gradient that enters and leaves each of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import Node

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.graph import Graph, read_graph

Gradients = tuple[torch.Tensor | None, ...]


@dataclass
class NodeFlow:
    """What passed one node.

    Attributes:
        entered: largest |gradient| towards it; NaN or infinite where one is.
        left: the same for each of its inputs; None where it computed none.
        only_untaken: values became non-finite only where the gradient that entered was zero.
    """

    entered: float
    left: list[float | None]
    only_untaken: bool = False


@dataclass
class BackwardFlow:
    """All nodes of a backward pass, in the order in which they ran."""

    graph: Graph
    flows: dict[Node, NodeFlow] = field(default_factory=dict)
    gradients: dict[ParameterEntry, float] = field(default_factory=dict)

    def first_broken(self) -> tuple[Node, NodeFlow] | None:
        """Return the first node that made a non-finite gradient of finite ones."""
        return next(
            (
                (node, flow)
                for node, flow in self.flows.items()
                if math.isfinite(flow.entered)
                and any(left is not None and not math.isfinite(left) for left in flow.left)
            ),
            None,
        )

    def zero_origins(self) -> dict[Node, tuple[Node, int]]:
        """Return for each node that gets only zeros the edge nearest the loss at which they began.

        Returns:
            For a node, the node nearer the loss that made a zero of what was not zero, and the index of its input. A
            parameter without an entry gets parts that are not zero and cancel.
        """
        origins: dict[Node, tuple[Node, int]] = {}
        for node in self.graph.order:
            flow = self.flows.get(node)
            if flow is None:
                continue
            for index, (child, _) in enumerate(node.next_functions):
                left = flow.left[index] if index < len(flow.left) else None
                if child is None or left:
                    continue
                origin = (node, index) if flow.entered > 0 else origins.get(node)
                if origin is not None:
                    origins.setdefault(child, origin)
        return origins


def run_backward(loss: torch.Tensor, parameters: ParameterIndex) -> BackwardFlow:
    """Differentiate a loss by the trained parameters and read every node; no `.grad` is written."""
    assert loss.grad_fn is not None
    flow = BackwardFlow(read_graph(loss.grad_fn))
    handles = [node.register_hook(partial(_read, flow, node)) for node in flow.graph.order]
    entries = [(entry, member) for entry in parameters for member in entry.members if member.requires_grad]
    try:
        gradients = torch.autograd.grad(loss, [member for _, member in entries], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    sizes: dict[ParameterEntry, list[float]] = defaultdict(list)
    for (entry, _), gradient in zip(entries, gradients, strict=True):
        if gradient is not None:
            sizes[entry].append(_largest([gradient]))
    flow.gradients.update({entry: _largest_of(parts) for entry, parts in sizes.items()})
    return flow


def _read(flow: BackwardFlow, node: Node, left: Gradients, entered: Gradients) -> None:
    reading = NodeFlow(_largest(entered), [None if part is None else _largest([part]) for part in left])
    if math.isfinite(reading.entered) and not all(part is None or math.isfinite(part) for part in reading.left):
        reading.only_untaken = _is_untaken(left, entered)
    flow.flows[node] = reading


def _is_untaken(left: Gradients, entered: Gradients) -> bool:
    given = next((part for part in entered if part is not None), None)
    bad = next((part for part in left if part is not None and not bool(torch.isfinite(part).all())), None)
    if given is None or bad is None or given.shape != bad.shape:
        return False
    return not bool(given[~torch.isfinite(bad)].any())


def _largest(tensors: Sequence[Any]) -> float:  # Any: None where there is no gradient
    return _largest_of(
        float(tensor.detach().abs().max())
        for tensor in tensors
        if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.numel()
    )


def _largest_of(sizes: Iterable[float]) -> float:
    values = list(sizes)
    return math.nan if any(math.isnan(value) for value in values) else max(values, default=0.0)
