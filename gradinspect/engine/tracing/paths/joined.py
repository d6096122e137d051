"""Find the layer calls that feed a nonlinearity through sums, parts, products and concatenations.

A ReLU behind a shortcut takes the sum of two calls, a packed gate takes half of one call's output: neither follows one
call alone, and both decide which units of those calls are dead or saturated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from torch.autograd.graph import Node

from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.operator_names import NODE_JOINS, NODE_PARTS, NODE_RESHAPES

_MOST_NODES = 64  # chosen: longer sums, such as a residual stream, are searched as far as this
_PASSED = NODE_RESHAPES | NODE_JOINS | frozenset(NODE_PARTS)


def feeding_calls(node: Node, call_of: Mapping[Node, LayerCall]) -> list[LayerCall]:
    """Return the layer calls whose outputs make up a node's output, nearest first.

    Args:
        call_of: the layer call that a node belongs to, for nodes that belong to one.

    Cost: a visit to at most 64 nodes.
    """
    feeding: list[LayerCall] = []
    seen = {node}
    waiting = deque([node])
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.popleft()
        call = call_of.get(node)
        if call is not None:
            if call not in feeding:
                feeding.append(call)
        elif node.name() in _PASSED:
            new = [child for child, _ in node.next_functions if child is not None and child not in seen]
            seen.update(new)
            waiting.extend(new)
    return feeding
