"""Recognize the nonlinearity behind a layer call: one ATen operation, or several that are element-wise together.

`x * sigmoid(x)`, softsign and activations written by hand are several nodes in the graph. They are followed from a
call's output as long as each operation takes nothing but that output's descendants and constants; what leaves through
a single exit is one nonlinearity. Its gain follows from the signals on both sides, and so does its slope, element by
element: φ′(z) = δ_z / δ_φ(z).
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

MAX_LABEL = 128  # characters of the name of a nonlinearity of several operations


@dataclass(eq=False, slots=True)
class Trail:
    """Element-wise operations seen behind one call.

    Attributes:
        operations: their names, in the order in which they ran.
        exits: for the node of each operation, the nonlinearity that ends there; None while the trail is linear.
        is_nonlinear: whether any of them is.
        is_elementwise: whether all of them are known to be.
    """

    call: LayerCall
    operations: list[str] = field(default_factory=list)
    exits: dict[Node, ActivationCall | None] = field(default_factory=dict)
    is_nonlinear: bool = False
    is_elementwise: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """An operation that continues a trail.

    Attributes:
        is_first: whether all its data is the call's output itself.
        joins: whether it takes several tensors of the trail.
    """

    trail: Trail
    is_first: bool
    joins: bool

    @property
    def call(self) -> LayerCall:
        """The call at the beginning of the trail."""
        return self.trail.call


class Nonlinearities:
    """Follows each call's output while the forward pass runs, and chooses its nonlinearity afterwards."""

    def __init__(self) -> None:
        self._trails: dict[Node, Trail] = {}

    def begin(self, call: LayerCall, node: Node) -> None:
        """Start a trail at the output of a call; a separate bias moves the start."""
        self._trails[node] = Trail(call)

    def step(self, operation: str, tensors: Sequence[torch.Tensor]) -> Step | None:
        """Return the step that an operation about to run is; None if it is not element-wise or takes other data."""
        name = operation.removesuffix("_")
        if name not in ATEN_NONLINEARITY_PARTS:
            return None
        trail: Trail | None = None
        is_first, sources = True, 0
        for tensor in tensors:
            if tensor.grad_fn is None:
                # A single number is a constant; so are the weight of a PReLU and the noise of an RReLU.
                if tensor.numel() != 1 and name not in ATEN_WITH_TENSOR_ARGUMENT:
                    return None
                continue
            node = through_reshapes(tensor.grad_fn)
            own = self._trails.get(node)
            if own is None and name in ATEN_WITH_TENSOR_ARGUMENT:
                continue
            if own is None or (trail is not None and own is not trail):
                return None
            trail, sources = own, sources + 1
            is_first = is_first and node in own.call.nodes
        return None if trail is None else Step(trail, is_first, sources > 1)

    def custom_step(self, node: Node) -> Step | None:
        """Return the step that a custom autograd.Function is; its only differentiable input must be on one trail."""
        if not is_custom(node):
            return None
        sources = [through_reshapes(child) for child, _ in node.next_functions if child is not None]
        trail = self._trails.get(sources[0]) if len(sources) == 1 else None
        if trail is None:
            return None
        trail.is_elementwise = False  # it may mix elements
        trail.is_nonlinear = True
        return Step(trail, sources[0] in trail.call.nodes, joins=False)

    def extend(
        self, step: Step, operation: str, activation: ActivationCall | None, node: Node
    ) -> ActivationCall | None:
        """Add an operation that has run to its trail.

        Returns:
            The nonlinearity that ends with it; None while the trail is linear.
        """
        trail = step.trail
        name = node.name().removesuffix("Backward") if is_custom(node) else operation.removesuffix("_")
        trail.operations.append(name)
        trail.is_nonlinear |= name in ATEN_NONLINEAR or step.joins
        trail.is_elementwise &= name not in ATEN_MIXING
        self._trails[node] = trail
        made = activation
        if made is None and trail.is_nonlinear:
            made = _composed(trail)
        if made is not None:
            made.node = node
        trail.exits[node] = made
        return made

    def resolve(self, call: LayerCall, used_by: Mapping[Node, Sequence[Node]]) -> ActivationCall | None:
        """Choose the nonlinearity behind a call, now that the whole graph is known.

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


def is_custom(node: Node) -> bool:
    """Check whether a node is a torch.autograd.Function written in Python."""
    return isinstance(node, BackwardCFunction)


def users_of(node: Node, used_by: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """Return the nodes that use a node's output, past reshapes."""
    users: list[Node] = []
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
            users.append(user)
    return users


def _composed(trail: Trail) -> ActivationCall:
    """Make the nonlinearity that the operations of a trail are together."""
    record = BY_OPERATIONS.get(tuple(trail.operations))
    return ActivationCall(
        operation=record.name if record is not None else "-".join(trail.operations)[:MAX_LABEL],
        activation=None,
        arguments=(),
        keywords={},
        node=None,
        largest_slope=record.largest_slope if record is not None else None,
        is_elementwise=trail.is_elementwise,
    )
