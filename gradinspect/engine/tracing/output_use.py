"""Which outputs of a model a loss depends on, and which parameters feed only the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import Node

from gradinspect.engine.network.outputs import ModelOutput, named_tensors
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.graph import Graph, consumers


@dataclass(frozen=True)
class OutputUse:
    """Names of the outputs that carry a gradient, and the parameters behind those that take no part in the loss.

    Attributes:
        last_number: sequence number of the model's last node; those of the loss are higher.
    """

    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    behind_unused: frozenset[ParameterEntry] = field(default_factory=frozenset)
    last_number: int = 0

    def leaves_of_model(self, graph: Graph, leaves: Collection[torch.Tensor]) -> list[torch.Tensor]:
        """Return those of a graph's leaves that a node of the model uses, and not the loss alone."""
        searched = {id(leaf) for leaf in leaves}
        users = consumers(graph)
        found = (
            getattr(node, "variable", None)
            for node in graph.order
            if any(_number(user) <= self.last_number for user in users.get(node, ()))
        )
        return [leaf for leaf in found if isinstance(leaf, torch.Tensor) and id(leaf) in searched]


class OutputEdges:
    """The ends of the model's graph, taken before the loss is computed.

    Args:
        output: what the model returned.
    """

    def __init__(self, output: ModelOutput) -> None:
        self._edges = {
            name: (tensor.grad_fn, tensor.output_nr) for name, tensor in named_tensors(output) if tensor.grad_fn
        }
        # Nodes are numbered as they are made, so those of the loss have higher numbers than all of the model's.
        self._last = max((_number(node) for node, _ in self._edges.values()), default=0)

    def use(self, loss: Node, parameters: ParameterIndex) -> OutputUse:
        """Compare them with the graph of the loss.

        Cost: linear in the loss's own nodes; where an output is unused, also in the nodes behind it.
        """
        if len(self._edges) < 2:
            return OutputUse(tuple(self._edges), last_number=self._last)
        reached = self._reached(loss)
        used = tuple(name for name, edge in self._edges.items() if edge in reached)
        unused = {name: node for name, (node, number) in self._edges.items() if (node, number) not in reached}
        return OutputUse(used, tuple(unused), frozenset(_entries_behind(unused.values(), parameters)), self._last)

    def _reached(self, loss: Node) -> set[tuple[Node, int]]:
        """Return the edges from the loss's own nodes to the model's."""
        if _number(loss) <= self._last:  # the loss is an output of the model
            return {edge for edge in self._edges.values() if edge[0] is loss}
        reached: set[tuple[Node, int]] = set()
        seen, stack = {loss}, [loss]
        while stack:
            for child, number in stack.pop().next_functions:
                if child is None:
                    continue
                if _number(child) <= self._last:
                    reached.add((child, number))
                elif child not in seen:
                    seen.add(child)
                    stack.append(child)
        return reached


def _number(node: Node) -> int:
    number: int = node._sequence_nr()
    return number


def _entries_behind(nodes: Iterable[Node], parameters: ParameterIndex) -> Iterable[ParameterEntry]:
    stack = list(nodes)
    seen = set(stack)
    while stack:
        node = stack.pop()
        variable = getattr(node, "variable", None)
        entry = parameters.of_object(variable) if isinstance(variable, torch.Tensor) else None
        if entry is not None:
            yield entry
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
