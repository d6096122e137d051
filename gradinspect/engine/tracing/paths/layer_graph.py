"""The graph of layer calls: which call follows which towards the loss, the longest path, and what joins it by its side.

It is read from the autograd graph, and holds numbers alone, so it outlives the pass. Every walk is linear in the nodes
and edges of the autograd graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch.autograd.graph import Node

from gradinspect.engine.tracing.graph import Graph
from gradinspect.engine.tracing.operator_names import (
    NODE_BOUNDED_FACTORS,
    NODE_FUSED_ATTENTION,
    NODE_NORMALISATIONS,
    NODE_PASSING_FACTORS,
    NODE_PRODUCTS,
    NODE_SCALE_FREE,
)

MOST_NEIGHBOURS = 8  # of a call in the report: a residual stream reaches every later block


@dataclass(frozen=True)
class LayerGraph:
    """The nodes between the layer calls and the loss, as indices: 0 is the loss, and users come before sources.

    Attributes:
        sources: for each node, the nodes whose outputs it takes; those below every layer call are left out.
        side_sources: for each node that has them, those sources that only weigh the others: the sigmoid of a gate,
            the softmax of attention.
        call_of: node → order of its layer call.
        normalises: nodes that divide their input by its own size.
        keeps_scale: nodes whose output grows in proportion to their inputs, as sums and reshapes do.
    """

    sources: list[list[int]] = field(default_factory=list)
    side_sources: dict[int, set[int]] = field(default_factory=dict)
    call_of: dict[int, int] = field(default_factory=dict)
    normalises: set[int] = field(default_factory=set)
    keeps_scale: set[int] = field(default_factory=set)

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """Orders of the calls on the longest path to the loss, counted in layer calls, nearest the input first."""
        return self._longest_chain(None)

    def longest_chain(self, calls: Iterable[int]) -> tuple[int, ...]:
        """Return as many of these calls as lie on one path to the loss, nearest the input first."""
        return self._longest_chain(frozenset(calls))

    def neighbours(self) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
        """Return the next calls towards the loss of each call, and towards the input, at most `MOST_NEIGHBOURS`."""
        reached: list[tuple[int, ...]] = [()] * len(self.sources)  # the next calls beyond a node's output
        following: dict[int, tuple[int, ...]] = {}
        for node, sources in enumerate(self.sources):
            call = self.call_of.get(node)
            beyond = reached[node]
            if call is not None:
                following[call] = _merged(following.get(call, ()), tuple(other for other in beyond if other != call))
                beyond = (call,)
            for source in sources:
                reached[source] = _merged(reached[source], beyond)
        before: dict[int, tuple[int, ...]] = {}
        for call, others in sorted(following.items()):
            for other in others:
                before[other] = (*before.get(other, ()), call)[-MOST_NEIGHBOURS:]
        return following, before

    def normalised_by(self, norms: Iterable[int]) -> dict[int, int | None]:
        """Find the calls whose size is divided out on every way to the loss.

        Args:
            norms: orders of the calls that normalise.

        Returns:
            Order of a call → order of the nearest call that normalises it; None where only an operation without
            parameters does.
        """
        is_norm = set(norms)
        free: list[bool] = [True] * len(self.sources)  # whether all users of a node's output divide its size out
        nearest: list[int | None] = [None] * len(self.sources)
        found: dict[int, int | None] = {}
        if free:
            free[0] = False
        for node, sources in enumerate(self.sources):
            call = self.call_of.get(node)
            if call is not None and call not in is_norm and free[node]:
                found[call] = nearest[node]
            elif call is not None:
                found.pop(call, None)
            passes = free[node] and node in self.keeps_scale and call is None
            by_call = call if call is not None and call in is_norm else None
            divides = node in self.normalises or by_call is not None
            for source in sources:
                if call is not None and self.call_of.get(source) == call:
                    free[source], nearest[source] = free[source] and free[node], nearest[node]
                    continue
                free[source] = free[source] and (divides or passes)
                nearest[source] = _smaller(nearest[source], by_call if divides else nearest[node])
        return found

    def widest_gates(self, factors: Mapping[int, float]) -> dict[int, float]:
        """Return for each call the product of the factors of the gates that its widest way to the loss passes.

        Args:
            factors: order of a gate's call → the factor by which it multiplies the signal, at most 1.
        """
        width = [0.0] * len(self.sources)
        found: dict[int, float] = {}
        if width:
            width[0] = 1.0
        for node, sources in enumerate(self.sources):
            call = self.call_of.get(node)
            own = width[node]
            if call is not None:
                found[call] = max(found.get(call, 0.0), own)
            for source in sources:
                inside = call is not None and self.call_of.get(source) == call
                passed = own if inside or call is None else own * factors.get(call, 1.0)
                width[source] = max(width[source], passed)
        return found

    def _longest_chain(self, chosen: frozenset[int] | None) -> tuple[int, ...]:
        """Follow the path with the most calls; of `chosen` calls alone, also along ways that only weigh others."""
        length = [0] * len(self.sources)  # calls on the longest path up to and including a node
        before: list[int | None] = [None] * len(self.sources)
        for node in range(len(self.sources) - 1, -1, -1):
            call = self._counted(node, chosen)
            side = self.side_sources.get(node, ()) if chosen is None else ()
            best = int(call is not None)
            for source in self.sources[node]:
                same = call is not None and self.call_of.get(source) == call
                reached = length[source] + int(call is not None and not same)
                if source not in side and length[source] and reached > best:
                    best, before[node] = reached, source
                elif same and source not in side and before[node] is None:
                    before[node] = source
            length[node] = best
        node_: int | None = 0 if chosen is None else max(range(len(length)), key=length.__getitem__, default=None)
        chain: list[int] = []
        while node_ is not None and node_ < len(length):
            call = self._counted(node_, chosen)
            if call is not None and (not chain or chain[-1] != call):
                chain.append(call)
            node_ = before[node_]
        return tuple(reversed(chain))

    def _counted(self, node: int, chosen: frozenset[int] | None) -> int | None:
        call = self.call_of.get(node)
        return call if chosen is None or call in chosen else None


def layer_graph(graph: Graph, call_of: Mapping[Node, int]) -> LayerGraph:
    """Reduce an autograd graph to the part between its layer calls and the loss.

    Args:
        call_of: order of the layer call that a node belongs to, for nodes that belong to one.
    """
    live: set[Node] = set()
    for node in reversed(graph.order):
        if node in call_of or any(source in live for source in graph.sources[node]):
            live.add(node)
    nodes = [node for node in graph.order if node in live]
    index = {node: position for position, node in enumerate(nodes)}
    result = LayerGraph(call_of={index[node]: order for node, order in call_of.items() if node in index})
    for position, node in enumerate(nodes):
        result.sources.append([index[source] for source in graph.sources[node] if source in index])
        name = node.name()
        if name in NODE_SCALE_FREE:
            result.keeps_scale.add(position)
        if name in NODE_NORMALISATIONS:
            result.normalises.add(position)
        weighing = _weighing(node, name, graph, live)
        if weighing:
            result.side_sources[position] = {index[source] for source in weighing}
    return result


def _weighing(node: Node, name: str, graph: Graph, live: set[Node]) -> list[Node]:
    """Return the inputs of a product that only weigh another one: bounded factors, and attention's queries and keys."""
    if name in NODE_FUSED_ATTENTION:
        inputs = [child for child, _ in node.next_functions[:3]]
        if len(inputs) < 3 or inputs[2] not in live:
            return []
        return [child for child in inputs[:2] if child in live and child is not inputs[2]]
    if name not in NODE_PRODUCTS:
        return []
    sources = [source for source in graph.sources[node] if source in live]
    if len(sources) != 2:
        return []
    bounded = [source for source in sources if _is_bounded(source, graph, live)]
    return bounded if len(bounded) == 1 else []


def _is_bounded(node: Node, graph: Graph, live: set[Node]) -> bool:
    while node.name() in NODE_PASSING_FACTORS:
        sources = [source for source in graph.sources[node] if source in live]
        if len(sources) != 1:
            return False
        node = sources[0]
    return node.name() in NODE_BOUNDED_FACTORS


def _merged(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if not one or one == other:
        return other
    return tuple(sorted({*one, *other}))[:MOST_NEIGHBOURS] if other else one


def _smaller(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
