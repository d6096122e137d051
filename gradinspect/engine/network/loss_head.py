"""How a loss reads a network's output, from the autograd graph: the loss's function, and what comes right before it.

The same for named losses, for callables and for models that compute their loss: names of nodes are all that is read,
with the tensors that a few nodes save. Works for eager modules and TorchScript alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.autograd.graph import Node

from gradinspect.contracts.report.setup import MAX_HEADS, OutputHead
from gradinspect.engine.network.outputs import ModelOutput, named_tensors

MOST_NODES = 512  # chosen: of the loss; a loss of more is not read further
_SAMPLE = 65_536  # chosen: elements of a target or of log-probabilities that are read

_RESHAPES = frozenset(
    {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1",
     "SqueezeBackward2", "UnsqueezeBackward0", "AliasBackward0", "CloneBackward0", "ToCopyBackward0", "TBackward0",
     "TransposeBackward0", "PermuteBackward0", "ExpandBackward0", "SelectBackward0", "SliceBackward0"}
)  # fmt: skip
_LOSSES = {
    "LogSoftmaxBackward0": "cross_entropy", "BinaryCrossEntropyWithLogitsBackward0": "bce_with_logits",
    "NllLossBackward0": "nll", "NllLoss2DBackward0": "nll", "MseLossBackward0": "mse",
    "SmoothL1LossBackward0": "smooth_l1", "HuberLossBackward0": "huber", "SubBackward0": "difference",
}  # fmt: skip
_LAST = {
    "SoftmaxBackward0": "softmax", "SigmoidBackward0": "sigmoid", "TanhBackward0": "tanh", "ReluBackward0": "relu",
    "LogSoftmaxBackward0": "log_softmax", "LogSigmoidBackward0": "logsigmoid", "SoftplusBackward0": "softplus",
    "HardtanhBackward0": "hardtanh", "HardsigmoidBackward0": "hardsigmoid",
}  # fmt: skip
RANGES = {
    "softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf), "softplus": (0.0, math.inf), "log_softmax": (-math.inf, 0.0),
    "logsigmoid": (-math.inf, 0.0),
}  # fmt: skip
_VALUES = frozenset({"mse", "smooth_l1", "huber", "difference"})
_EDGE = 0.02  # chosen, of the size of the range: targets such as 1.01 for a tanh are rounding or noise


def read_heads(output: ModelOutput, target: Any, loss: torch.Tensor) -> list[tuple[OutputHead, Node | None]]:
    """Read how the loss uses the outputs; each use comes with the node of the last operation before it, where known.

    Args:
        output: what the model returned.
        target: as the loss received it.
        loss: computed from both; without a graph there is nothing to read.

    Cost: the loss's own nodes, and a sample of the target.
    """
    if loss.grad_fn is None:
        return []
    ends = {tensor.grad_fn: tensor for _, tensor in named_tensors(output) if tensor.grad_fn is not None}
    heads: dict[object, tuple[OutputHead, Node | None]] = {}
    for node, source in _uses(loss.grad_fn, set(ends)):
        head = _head(node, source, ends.get(source), target)
        heads.setdefault((head[0].loss_function, head[1], head[0].output_shape), head)
    return list(heads.values())[:MAX_HEADS]


def _uses(root: Node, ends: set[Node]) -> Iterator[tuple[Node, Node]]:
    """Yield the nodes of the loss's functions, each with the node whose output it takes, reshapes skipped.

    Walks from the loss towards the inputs: as far as the outputs, or `MOST_NODES` nodes where the model computes the
    loss itself. Plain differences count only where they take an output of the model.
    """
    seen, queue = {root}, [root]
    for node in queue:
        is_loss = node.name() in _LOSSES
        for child, _ in node.next_functions:
            if child is None:
                continue
            source = _through(child, ends)
            if is_loss and (_LOSSES[node.name()] != "difference" or source in ends):
                yield node, source
            if child not in seen and not (node in ends and node is not root) and len(seen) < MOST_NODES:
                seen.add(child)
                queue.append(child)


def _through(node: Node, ends: Collection[Node] = ()) -> Node:
    """Walk towards the inputs past nodes that only rearrange values, as far as an end."""
    while node.name() in _RESHAPES and node not in ends:
        child = next((child for child, _ in node.next_functions if child is not None), None)
        if child is None:
            break
        node = child
    return node


def _head(node: Node, source: Node, output: torch.Tensor | None, target: Any) -> tuple[OutputHead, Node | None]:
    function = _LOSSES[node.name()]
    before = _through(source)
    last = _LAST.get(before.name())
    compared = _saved(node, "_saved_target")
    if compared is None and isinstance(target, torch.Tensor) and output is not None:
        compared = target if target.is_floating_point() and target.numel() == output.numel() else None
    error = _log_probability_error(node) if function == "nll" else None
    outside = low = high = None
    reach = RANGES.get(last or "") if function in _VALUES else (0.0, 1.0) if function == "bce_with_logits" else None
    if reach is not None and compared is not None and compared.numel() and not compared.is_complex():
        low, high, outside = _outside(compared, reach)
    shapes = _stretched(node, output, target) if function in _VALUES | {"bce_with_logits"} else None
    read = OutputHead(
        loss_function=function, last_operation=last, log_probability_error=error, targets_outside=outside,
        target_low=low, target_high=high,
    )  # fmt: skip
    if last == "softmax" and output is not None and output.dim() > 1:
        axes = output.dim()
        read = read.model_copy(update={"is_over_samples": int(getattr(before, "_saved_dim", 1)) in (0, 2**64 - axes)})
    if shapes is not None:
        read = read.model_copy(
            update=dict(zip(("output_shape", "target_shape", "compared_shape"), shapes, strict=True))
        )
    return read, before if last is not None else None


def _saved(node: Node, name: str) -> torch.Tensor | None:
    try:
        value = getattr(node, name, None)
    except RuntimeError:  # the tensor was changed in place since
        return None
    return value if isinstance(value, torch.Tensor) else None


def _log_probability_error(node: Node) -> float | None:
    """Return how far a sample of rows is from log-probabilities: the median of |logsumexp| over the classes."""
    values = _saved(node, "_saved_self")
    if values is None or not values.numel():
        return None
    axis = 1 if values.dim() > 1 else 0
    rows = values.detach()[: max(1, _SAMPLE // max(values[0].numel(), 1))] if values.dim() > 1 else values.detach()
    error = float(torch.logsumexp(rows.float(), axis).abs().median())
    return error if math.isfinite(error) else None


def _outside(target: torch.Tensor, reach: tuple[float, float]) -> tuple[float, float, float] | tuple[None, None, None]:
    flat = target.detach().reshape(-1)
    values = flat[:: max(1, flat.numel() // _SAMPLE)].double()
    values = values[torch.isfinite(values)]
    if not values.numel():
        return None, None, None
    low, high = reach
    margin = _EDGE * (high - low) if math.isfinite(high - low) else _EDGE * float(values.abs().max())
    beyond = ((values < low - margin) | (values > high + margin)).double().mean()
    return float(values.min()), float(values.max()), float(beyond)


def _stretched(node: Node, output: torch.Tensor | None, target: Any) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of output, target and their common shape, where broadcasting made more elements than each has.

    An output (N, 1) and a target (N,) are compared as (N, N), every output with every target.
    """
    if output is None or not isinstance(target, torch.Tensor):
        return None
    shape, wanted = tuple(output.shape), tuple(target.shape)
    compared = _common(shape, wanted)
    is_same_count = output.numel() == target.numel()
    if not shape or not wanted or shape[0] != wanted[0]:
        return None  # a target (1, N) is stretched on purpose
    if compared is None or not is_same_count or shape == wanted or math.prod(compared) <= output.numel():
        return None
    return (shape, wanted, compared) if compared in _shapes_at(node) else None


def _common(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...] | None:
    try:
        return tuple(torch.broadcast_shapes(left, right))
    except RuntimeError:
        return None


def _shapes_at(node: Node) -> set[tuple[int, ...]]:
    """Return the shapes of what a node gives and takes."""
    nodes: Iterable[Any] = (node, *(child for child, _ in node.next_functions if child is not None))
    shapes = {tuple(each.shape) for one in nodes for each in getattr(one, "_input_metadata", ())}
    saved = (_saved(node, name) for name in ("_saved_self", "_saved_target"))
    return shapes | {tuple(value.shape) for value in saved if value is not None}
