"""Calls of the same weights along one path, and by how much the path multiplies a signal.

The gain is that of the product of Jacobians between the last call and the first: a random cotangent enters at the last
call alone. So it does not depend on where the loss enters the chain. Source: Pascanu et al. 2013, eq. 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.autograd.graph import GradientEdge

from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.ledger import Ledger
from gradinspect.engine.tracing.operator_names import ATEN_LOOKUPS
from gradinspect.engine.tracing.paths.layer_graph import LayerGraph

MOST_MEASURED = 4  # chosen: layers and directions of a recurrent network; each costs a backward pass along its chain


@dataclass(eq=False, slots=True)
class Recurrence:
    """A chain of calls of the same weights.

    Attributes:
        calls: orders of the calls on the chain, nearest the input first.
        cotangent: norm of what entered at the last call's output.
        arrived: norm of what arrived at the first call's output; NaN where it was not measured.
    """

    calls: tuple[int, ...]
    cotangent: float = math.nan
    arrived: float = math.nan

    @property
    def gain(self) -> float | None:
        """By how much the chain multiplies a signal; None where that was not measured."""
        gain = self.arrived / self.cotangent if self.cotangent else math.nan
        return gain if math.isfinite(gain) else None


def measure_recurrences(calls: Sequence[LayerCall], graph: LayerGraph, ledger: Ledger) -> list[Recurrence]:
    """Find the chains of repeated weights and send a cotangent along each; the graph stays usable.

    Of weights that are applied in turn along one chain, as in a tied transformer, the first stands for all.

    Cost: nothing without a repeated call; else a backward pass along each chain, without gradients of parameters.
    """
    by_weights: dict[tuple[str, frozenset[ParameterEntry]], list[int]] = {}
    for call in calls:
        if call.node is not None and call.operation not in ATEN_LOOKUPS:  # nothing passes back through a lookup
            by_weights.setdefault((call.operation, frozenset(call.entries)), []).append(call.order)
    repeated = sorted((orders for orders in by_weights.values() if len(orders) > 1), key=lambda orders: -len(orders))
    chains: list[Recurrence] = []
    for orders in repeated:
        if len(chains) == MOST_MEASURED:
            break
        chain = graph.longest_chain(orders)
        if len(chain) < 2 or any(_alternates(chain, known.calls, graph) for known in chains):
            continue
        recurrence = Recurrence(chain)
        chains.append(recurrence)
        _measure(recurrence, calls[chain[0]], calls[chain[-1]], ledger)
    return chains


def _alternates(chain: tuple[int, ...], known: tuple[int, ...], graph: LayerGraph) -> bool:
    """Check whether the calls of two chains take turns along one path."""
    return len(graph.longest_chain((*chain, *known))) == len(chain) + len(known) and (
        chain[0] < known[-1] and known[0] < chain[-1]
    )


def _measure(recurrence: Recurrence, first: LayerCall, last: LayerCall, ledger: Ledger) -> None:
    assert first.node is not None
    assert last.node is not None
    [entered, *others] = last.node._input_metadata
    if others or not entered.dtype.is_floating_point:
        return
    drawn = torch.randn(tuple(entered.shape), generator=torch.Generator().manual_seed(0))
    cotangent = drawn.to(device=entered.device, dtype=entered.dtype)
    try:
        [arrived] = torch.autograd.grad(
            [GradientEdge(last.node, 0)], [GradientEdge(first.node, 0)], [cotangent],
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
    except RuntimeError:  # a custom autograd.Function may refuse to run twice
        return
    if arrived is not None:
        ledger.norm(cotangent, partial(setattr, recurrence, "cotangent"))
        ledger.norm(arrived, partial(setattr, recurrence, "arrived"))
