"""Uses of parameters in an autograd graph: which node, in which input slot, with which part of the tensor.

Nodes that only reshape a parameter (a transpose, a view, a cast) are passed through. Nodes that take a part of it (a
slice, one of three packed projections) are recorded, because gradients of disjoint parts do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any  # attributes in which autograd nodes save tensors and numbers have no stubs

from torch.autograd.graph import Node

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.graph import Graph, through_reshapes
from gradinspect.engine.tracing.operator_names import NODE_LOOKUP, NODE_PARTS, NODE_RESHAPES, NODE_TRANSPOSES

Part = tuple[tuple[object, ...], ...]

_FROM_THE_END = 2**62  # autograd saves a negative bound as an unsigned 64-bit number


@dataclass(frozen=True, eq=False)
class Use:
    """One operation that takes a parameter as input.

    Attributes:
        entry: the parameter.
        node: the operation's node; its gradient input is the signal δ of the operation's output.
        slot: index of the parameter among the operation's inputs.
        part: which part of the parameter is used; empty for all of it.
        shape: its shape there.
        transposed: True where it is transposed, as a Linear's weight is.
        lookup: the table lookup between the parameter and this operation, None without one. Where the indices are the
            same for all samples (positions 0, 1, 2 …), the lookup's output is broadcast over the samples here. Such a
            use is listed in addition to the lookup's own; only the one whose output has a sample axis counts.
    """

    entry: ParameterEntry
    node: Node
    slot: int
    part: Part
    shape: tuple[int, ...]
    transposed: bool
    lookup: Node | None = None


@dataclass(frozen=True)
class _Source:
    entry: ParameterEntry
    part: Part = ()
    transposed: bool = False


class ParameterSources:
    """Lookup of the parameter that a node of one graph reshapes."""

    def __init__(self, parameters: ParameterIndex) -> None:
        self._parameters = parameters
        self._seen: dict[tuple[Node, int], _Source | None] = {}

    def behind(self, node: Node | None, output: int) -> _Source | None:
        """Return the parameter that a node reshapes, and the part of it; None for any other node."""
        if node is None:
            return None
        key = (node, output)
        if key not in self._seen:
            self._seen[key] = self._find(node, output)
        return self._seen[key]

    def _find(self, node: Node, output: int) -> _Source | None:
        variable = getattr(node, "variable", None)
        if variable is not None:
            entry = self._parameters.of_object(variable)
            return _Source(entry) if entry is not None else None
        name = node.name()
        if name not in NODE_RESHAPES and name not in NODE_PARTS:
            return None
        children = [(child, index) for child, index in node.next_functions if child is not None]
        inner = self.behind(*children[0]) if len(children) == 1 else None
        if inner is None:
            return None
        part = (_part(node, output), *inner.part) if name in NODE_PARTS else inner.part
        return _Source(inner.entry, part, inner.transposed != (name in NODE_TRANSPOSES))


def parameter_uses(graph: Graph, sources: ParameterSources) -> list[Use]:
    """List all uses in a graph, those nearest the loss first."""
    uses: list[Use] = []
    for node in graph.order:
        if sources.behind(node, 0) is not None:
            continue  # it reshapes a parameter; the use is further up
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None:
                continue
            source = sources.behind(child, output)
            if source is not None:
                shape = output_shape(child, output)
                uses.append(Use(source.entry, node, slot, source.part, shape, source.transposed))
                continue
            table = through_reshapes(child)
            looked_up = sources.behind(*table.next_functions[0]) if table.name() == NODE_LOOKUP else None
            if looked_up is not None and node.name() not in NODE_RESHAPES:
                shape = output_shape(child, output)
                uses.append(Use(looked_up.entry, node, slot, looked_up.part, shape, looked_up.transposed, table))
    return uses


def lowest(uses: Iterable[Use], graph: Graph) -> list[Node]:
    """Return the nodes of uses below which there is no other use: where a backward pass may stop."""
    nodes = {use.node for use in uses}
    above: set[Node] = set()  # nodes with a use below them
    for node in reversed(graph.order):
        if any(child in above or child in nodes for child in graph.sources[node]):
            above.add(node)
    return [node for node in dict.fromkeys(use.node for use in uses) if node not in above]


def are_disjoint(parts: Iterable[Part]) -> bool:
    """Check that different parts of one tensor share no element, so that their gradients' squared norms add up."""
    distinct = list(set(parts))
    if len(distinct) < 2:
        return True
    if any(len(part) != 1 for part in distinct):
        return False
    kinds = {part[0][0] for part in distinct}
    if len(kinds) != 1:
        return False
    kind = next(iter(kinds))
    if kind == "SliceBackward0":
        return _are_apart([part[0] for part in distinct])
    # Selections along one axis differ in their index, outputs of one split in their number.
    return len({part[0][2] if kind == "SelectBackward0" else part[0][2:] for part in distinct}) == 1


def _are_apart(slices: list[tuple[Any, ...]]) -> bool:
    axes = {(axis, step) for _, _, axis, _, _, step in slices}
    spans = sorted((start, end) for _, _, _, start, end, _ in slices)
    return (
        len(axes) == 1
        and all(start < _FROM_THE_END for start, _ in spans)
        and all(before[1] <= after[0] for before, after in pairwise(spans))
    )


def _part(node: Node, output: int) -> tuple[object, ...]:
    saved = (getattr(node, name) for name in NODE_PARTS[node.name()])
    return (node.name(), output, *(tuple(value) if isinstance(value, list | tuple) else value for value in saved))


def output_shape(node: Node, output: int = 0) -> tuple[int, ...]:
    """Return the shape of an operation's output."""
    return tuple(node._input_metadata[output].shape)  # inputs of the backward node are outputs of the operation


def saved_by(node: Node) -> Any:
    """Return the node for access to what the operation saved for its backward pass."""
    return node
