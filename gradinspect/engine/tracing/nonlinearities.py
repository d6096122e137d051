"""Which operations behind a layer call are its nonlinearity: one of ATen's, or several that are element-wise together.

`x * sigmoid(x)`, softsign and every activation that somebody wrote by hand are several nodes in the graph. They are
followed from a call's output as long as each operation takes nothing but that output's descendants and constants; what
leaves through a single exit is one nonlinearity. Its gain follows from the signals on both sides, and so does its
slope, element by element: φ′(z) = δ_z / δ_φ(z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from gradinspect.contracts.nonlinearities import BY_OPERATIONS
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.graph import through_reshapes
from gradinspect.engine.tracing.operator_names import (
    ATEN_MIXING,
    ATEN_NONLINEAR,
    ATEN_NONLINEARITY_PARTS,
    ATEN_WITH_TENSOR_ARGUMENT,
    NODE_RESHAPES,
)


@dataclass(eq=False, slots=True)
class Trail:
    """The element-wise operations that were seen behind one call, each with what leaves it."""

    call: LayerCall
    operations: list[str] = field(default_factory=list)
    exits: dict[Node, ActivationCall | None] = field(default_factory=dict)
    is_curved: bool = False
    is_elementwise: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """An operation that goes on from a call's output, or from what was made of it."""

    trail: Trail
    is_first: bool
    joins: bool

    @property
    def call(self) -> LayerCall:
        """The call at the beginning of the trail."""
        return self.trail.call


class Nonlinearities:
    """Follows what happens to each call's output while the forward pass runs; chooses afterwards."""

    def __init__(self) -> None:
        self._trails: dict[Node, Trail] = {}

    def begin(self, call: LayerCall, node: Node) -> None:
        """Start a trail at the output of a call; a bias of its own moves the start."""
        self._trails[node] = Trail(call)

    def step(self, operation: str, tensors: Sequence[torch.Tensor]) -> Step | None:
        """Where an operation about to run goes on from; None when it is not element-wise or mixes other data in."""
        name = operation.removesuffix("_")
        if name not in ATEN_NONLINEARITY_PARTS:
            return None
        trail: Trail | None = None
        first, sources = True, 0
        for tensor in tensors:
            if tensor.grad_fn is None:
                # A single number is a constant; the weight of a PReLU, the noise of an RReLU belong to them.
                if tensor.numel() != 1 and name not in ATEN_WITH_TENSOR_ARGUMENT:
                    return None
                continue
            node = through_reshapes(tensor.grad_fn)
            found = self._trails.get(node)
            if found is None and name in ATEN_WITH_TENSOR_ARGUMENT:
                continue
            if found is None or (trail is not None and found is not trail):
                return None
            trail, sources = found, sources + 1
            first = first and node in found.call.nodes
        return None if trail is None else Step(trail, first, sources > 1)

    def is_custom(self, node: Node) -> bool:
        """Whether a node is a torch.autograd.Function of the model's author."""
        return isinstance(node, BackwardCFunction)

    def custom_step(self, node: Node) -> Step | None:
        """Where an author's own function goes on from: its only differentiable input must be on one trail."""
        sources = [through_reshapes(child) for child, _ in node.next_functions if child is not None]
        trail = self._trails.get(sources[0]) if len(sources) == 1 else None
        if trail is None:
            return None
        trail.is_elementwise = False  # nobody can tell whether it is
        trail.is_curved = True
        return Step(trail, sources[0] in trail.call.nodes, False)

    def extend(
        self, step: Step, operation: str, activation: ActivationCall | None, node: Node
    ) -> ActivationCall | None:
        """Put an operation that has run on the trail.

        Returns:
            What to read of its output; None while the trail is straight, and nothing can be a nonlinearity yet.
        """
        trail = step.trail
        custom = self.is_custom(node)
        name = node.name().removesuffix("Backward") if custom else operation.removesuffix("_")
        trail.operations.append(name)
        trail.is_curved |= name in ATEN_NONLINEAR or step.joins
        trail.is_elementwise &= name not in ATEN_MIXING
        self._trails[node] = trail
        made = activation
        if made is None and trail.is_curved:
            known = BY_OPERATIONS.get(tuple(trail.operations))
            label = known.name if known is not None else "-".join(trail.operations)[:128]
            largest = known.largest_slope if known is not None else None
            made = ActivationCall(label, None, (), {}, node, largest_slope=largest, is_elementwise=trail.is_elementwise)
        if made is not None:
            made.node = node
        trail.exits[node] = made
        return made

    def resolve(self, call: LayerCall, used_by: Mapping[Node, Sequence[Node]]) -> ActivationCall | None:
        """The nonlinearity behind a call, now that the whole graph is known.

        Args:
            used_by: for each node of the loss's graph, the nodes nearer the loss that use its output.
        """
        trail = self._trails.get(call.node) if call.node is not None else None
        if call.node is None or trail is None or not trail.exits:
            return None
        users = users_of(call.node, used_by)
        if len(users) == 1 and call.activation is not None and users[0] is call.activation.node:
            return call.activation
        if not all(user in trail.exits for user in users):
            return None
        leaving = [
            node
            for node in trail.exits
            if node in used_by and not all(user in trail.exits for user in users_of(node, used_by))
        ]
        return trail.exits[leaving[0]] if len(leaving) == 1 else None


def users_of(node: Node, used_by: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """The nodes that use a node's output, past reshapes."""
    found: list[Node] = []
    seen: set[Node] = set()
    waiting = list(used_by.get(node, ()))
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.name() in NODE_RESHAPES:
            waiting.extend(used_by.get(user, ()))
        else:
            found.append(user)
    return found
