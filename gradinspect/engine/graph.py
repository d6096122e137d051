"""The autograd graph as a graph: what only reshapes, who consumes whom, and which layer call comes next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch.autograd.graph import Node

KeyT = TypeVar("KeyT")

# Nodes that re-lay values one to one; a layer call is looked for on the other side of them.
RESHAPING = frozenset(
    {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "TBackward0", "TransposeBackward0",
     "PermuteBackward0", "SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2", "UnsqueezeBackward0",
     "AliasBackward0", "CloneBackward0", "ToCopyBackward0", "ViewBackward1"}
)  # fmt: skip


def through_reshapes(node: Node) -> Node:
    """Walk towards the inputs past nodes that only re-lay values."""
    while node.name() in RESHAPING:
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1:
            break
        node = children[0]
    return node


def consumers_first(root: Node) -> list[Node]:
    """All nodes behind `root` in an order in which every node stands after all its consumers."""
    state: dict[Node, bool] = {}  # False: entered, True: left
    finished: list[Node] = []
    stack: list[Node] = [root]
    while stack:
        node = stack[-1]
        if node in state:
            stack.pop()
            if not state[node]:
                state[node] = True
                finished.append(node)
            continue
        state[node] = False
        stack.extend(child for child, _ in node.next_functions if child is not None and child not in state)
    finished.reverse()
    return finished


def consumers(order: list[Node]) -> dict[Node, list[Node]]:
    """For each node, the nodes nearer the loss that use its output."""
    found: dict[Node, list[Node]] = {}
    for node in order:
        for child, _ in node.next_functions:
            if child is not None:
                found.setdefault(child, []).append(node)
    return found


def next_calls(order: list[Node], call_of: Mapping[Node, int]) -> dict[int, int]:
    """For each layer call, the nearest layer call towards the loss that its output reaches.

    Args:
        order: nodes, consumers first.
        call_of: index of the layer call that a node belongs to, for nodes that belong to one.

    Returns:
        Indices of calls to indices of the next call; where a signal branches, the branch that is used first in the
        forward pass. Calls whose output reaches no other call are left out.
    """
    reached: dict[Node, int] = {}
    following: dict[int, int] = {}
    for node in order:
        own = call_of.get(node)
        beyond = reached.get(node)
        if own is not None and beyond is not None and beyond != own:
            following[own] = min(beyond, following.get(own, beyond))
        here = own if own is not None else beyond
        if here is None:
            continue
        for child, _ in node.next_functions:
            if child is not None:
                reached[child] = min(here, reached.get(child, here))
    return following
