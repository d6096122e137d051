"""layer_normalised_updates: every layer moves by the same share of its weights, at every step.

A static scale cannot do this: gradients that differ by ten powers of ten between layers change by as much while the
network learns. Source: You, Gitman and Ginsburg 2017 (LARS), eq. 6, without momentum and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.engine.network.optimizers import Tensors, Update, UpdateState
from gradinspect.probes.remedies.probed_remedy import ProbedRemedy, RemedyInput
from gradinspect.probes.scales.measurement import GroupMeasurement
from gradinspect.probes.verify.search import Arm

CENTRE = 0.01  # chosen: one percent of the weights a step


def layer_normalised_updates(setup: RemedyInput) -> ProbedRemedy:
    """Make the remedy: its update, and the same update as a `torch.optim.Optimizer`."""
    groups: list[list[int]] = []
    for m in setup.measured:
        start = sum(map(len, groups))
        groups.append(list(range(start, start + len(m.group.entries))))
    ones = [1.0] * len(setup.entries)
    arm = Arm("layer_normalised_updates", layer_normalised_update(groups), ones, CENTRE, setup.starts)
    return ProbedRemedy(arm, lambda base_lr: layer_normalised_code(setup.measured, base_lr))


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


def layer_normalised_code(measured: Sequence[GroupMeasurement], base_lr: float) -> str:
    """Write the optimizer's class, and its construction for `model`."""
    rows = "".join(f"    [{', '.join(map(repr, m.group.report(1.0).parameters))}],\n" for m in measured)
    return _OPTIMIZER + (
        f"\n\nlayers = [\n{rows}]\n"
        "named = dict(model.named_parameters(remove_duplicate=False))\n"
        f"optimizer = LayerNormalised([[named[name] for name in names] for names in layers], lr={base_lr!r})\n"
    )


_OPTIMIZER = '''import math

import torch


class LayerNormalised(torch.optim.Optimizer):
    """Each layer's step is lr times the norm of its weights, along its gradient."""

    def __init__(self, layers, lr):
        super().__init__([{"params": list(layer)} for layer in layers], {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for layer in self.param_groups:
            moved = [p for p in layer["params"] if p.grad is not None]
            gradient = math.hypot(*(float(p.grad.norm()) for p in moved))
            weight = math.hypot(*(float(p.norm()) for p in layer["params"])) or 1.0
            if gradient > 0:
                for p in moved:
                    p.add_(p.grad, alpha=-layer["lr"] * weight / gradient)
        return loss
'''
