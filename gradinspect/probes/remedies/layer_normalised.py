"""layer_normalised_updates: every layer moves by the same share of its weights, at every step.

A static scale cannot do this: gradients that differ by ten powers of ten between layers change by as much while the
network learns. Source: You, Gitman and Ginsburg 2017 (LARS), eq. 6, without momentum and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.contracts.report.scale_code import LAYER_NORMALISED
from gradinspect.engine.network.optimizers import Tensors, Update, UpdateState
from gradinspect.probes.remedies.probed_remedy import ProbedRemedy, RemedyInput
from gradinspect.probes.verify.search import Arm

CENTRE = 0.01  # chosen: one percent of the weights a step


def layer_normalised_updates(setup: RemedyInput) -> ProbedRemedy:
    """Make the remedy; `contracts.report.scale_code` has the same update as a `torch.optim.Optimizer`."""
    groups: list[list[int]] = []
    for m in setup.measured:
        start = sum(map(len, groups))
        groups.append(list(range(start, start + len(m.group.entries))))
    ones = [1.0] * len(setup.entries)
    return ProbedRemedy(Arm(LAYER_NORMALISED, layer_normalised_update(groups), ones, CENTRE, setup.starts))


def layer_normalised_update(groups: Sequence[Sequence[int]]) -> Update:
    """Return the update Δw = −η·‖w‖·g/‖g‖ per group of parameters; ‖w‖ is taken as 1 where all weights are zero.

    Args:
        groups: positions in the list of parameters.
    """

    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        for group in groups:
            gradient = math.hypot(*(float(gradients[i].norm()) for i in group))
            weight = math.hypot(*(float(parameters[i].norm()) for i in group)) or 1.0
            if gradient > 0:
                for i in group:
                    parameters[i].add_(gradients[i], alpha=-rates[i] * weight / gradient)

    return update
