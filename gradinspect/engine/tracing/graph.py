"""The autograd graph: its nodes in order, who uses whose output, and which layer call comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node

from gradinspect.engine.tracing.operator_names import NODE_RESHAPES


def through_reshapes(node: Node) -> Node:
    """Walk towards the inputs past nodes that only rearrange values."""
    while node.name() in NODE_RESHAPES:
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1:
            break
        node = children[0]
    return node


@dataclass(frozen=True)
class Graph:
    """All nodes behind a root.

    Attributes:
        order: every node comes after all nodes that use its output.
        sources: for each node, the nodes whose outputs it takes, one for each use.
    """

    order: list[Node]
    sources: dict[Node, list[Node]]


def read_graph(root: Node) -> Graph:
    """Walk the graph behind a node once.

    Cost: linear in nodes and edges; every access to a node's inputs makes Python objects, so they are saved.
    """
    sources: dict[Node, list[Node]] = {}
    left: set[Node] = set()
    finished: list[Node] = []
    stack: list[Node] = [root]
    while stack:
        node = stack[-1]
        if node in sources:
            stack.pop()
            if node not in left:
                left.add(node)
                finished.append(node)
            continue
        inputs = sources[node] = [child for child, _ in node.next_functions if child is not None]
        stack.extend(child for child in inputs if child not in sources)
    finished.reverse()
    return Graph(finished, sources)


def consumers(graph: Graph) -> dict[Node, list[Node]]:
    """Return for each node the nodes nearer the loss that use its output."""
    users: dict[Node, list[Node]] = {}
    for node in graph.order:
        for child in graph.sources[node]:
            users.setdefault(child, []).append(node)
    return users


def next_calls(graph: Graph, call_of: Mapping[Node, int]) -> dict[int, int]:
    """Return for each layer call the nearest layer call towards the loss that its output reaches.

    Args:
        call_of: index of the layer call that a node belongs to, for nodes that belong to one.

    Returns:
        Indices of calls to indices of the next call; where a signal branches, the branch that is used first in the
        forward pass. Calls whose output reaches no other call are left out.
    """
    reached: dict[Node, int] = {}
    following: dict[int, int] = {}
    for node in graph.order:
        own = call_of.get(node)
        beyond = reached.get(node)
        if own is not None and beyond is not None and beyond != own:
            following[own] = min(beyond, following.get(own, beyond))
        nearest = own if own is not None else beyond
        if nearest is None:
            continue
        for child in graph.sources[node]:
            reached[child] = min(nearest, reached.get(child, nearest))
    return following
