"""Where parameters meet data in an autograd graph: which node, in which of its places, with which part of the tensor.

What only re-lays a parameter (a transpose, a view, a cast) is passed through; what takes a part of it (a slice, one of
three packed projections) is remembered, because gradients of disjoint parts do not mix.
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


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a parameter enters an operation.

    Attributes:
        entry: the parameter.
        node: the operation's node; its gradient input is the backward signal δ of its output.
        slot: which input of the operation the parameter is.
        part: which part of the parameter enters; empty for all of it.
        shape: the shape in which it enters.
        turned: whether it enters transposed, as a Linear's weight does.
        lookup: the table lookup between the parameter and this operation. Its output enters here stretched over the
            samples where the indices are the model's own (positions 0, 1, 2 …); such a use stands beside the
            lookup's, and the one of the two that can tell samples apart counts.
    """

    entry: ParameterEntry
    node: Node
    slot: int
    part: Part
    shape: tuple[int, ...]
    turned: bool
    lookup: Node | None = None


@dataclass(frozen=True)
class _Source:
    entry: ParameterEntry
    part: Part = ()
    turned: bool = False


class ParameterSources:
    """Answers, for any node of one graph, which parameter it re-lays."""

    def __init__(self, parameters: ParameterIndex) -> None:
        self._parameters = parameters
        self._seen: dict[tuple[Node, int], _Source | None] = {}

    def behind(self, node: Node | None, output: int) -> _Source | None:
        """The parameter that a node re-lays, and the part of it; None for anything else."""
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
        children = [(child, place) for child, place in node.next_functions if child is not None]
        inner = self.behind(*children[0]) if len(children) == 1 else None
        if inner is None:
            return None
        part = (_part(node, output), *inner.part) if name in NODE_PARTS else inner.part
        return _Source(inner.entry, part, inner.turned != (name in NODE_TRANSPOSES))


def parameter_uses(graph: Graph, sources: ParameterSources) -> list[Use]:
    """All uses in a graph, those nearest the loss first."""
    found: list[Use] = []
    for node in graph.order:
        if sources.behind(node, 0) is not None:
            continue  # it re-lays a parameter; whoever uses that is the use
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None:
                continue
            source = sources.behind(child, output)
            if source is not None:
                shape = output_shape(child, output)
                found.append(Use(source.entry, node, slot, source.part, shape, source.turned))
                continue
            table = through_reshapes(child)
            looked_up = sources.behind(*table.next_functions[0]) if table.name() == NODE_LOOKUP else None
            if looked_up is not None and node.name() not in NODE_RESHAPES:
                shape = output_shape(child, output)
                found.append(Use(looked_up.entry, node, slot, looked_up.part, shape, looked_up.turned, table))
    return found


def lowest(uses: Iterable[Use], graph: Graph) -> list[Node]:
    """The nodes of these uses from which no other of them can be reached: where a backward pass may stop."""
    nodes = {use.node for use in uses}
    above: set[Node] = set()  # nodes with a use somewhere behind them
    for node in reversed(graph.order):
        if any(child in above or child in nodes for child in graph.sources[node]):
            above.add(node)
    return [node for node in dict.fromkeys(use.node for use in uses) if node not in above]


def are_disjoint(parts: Iterable[Part]) -> bool:
    """Whether different parts of one tensor share no element, so that squares of their gradients' norms add up."""
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
        return _apart([part[0] for part in distinct])
    # Selections along one axis differ in their index, outputs of one split in their place.
    return len({part[0][2] if kind == "SelectBackward0" else part[0][2:] for part in distinct}) == 1


_FROM_THE_END = 2**62  # autograd saves a negative bound as a huge one


def _apart(slices: list[tuple[Any, ...]]) -> bool:  # Any: what autograd saved: integers
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
