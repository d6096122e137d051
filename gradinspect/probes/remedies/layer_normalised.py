"""layer_normalised_updates: every layer moves by the same share of its weights, at every step.

What a static scale cannot do: gradients that differ by ten powers of ten between layers change by as much while the
network learns. Source: You, Gitman and Ginsburg 2017 (LARS), eq. 6.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.probes.scales.measurement import GroupMeasurement

CENTRE = 0.01  # chosen: one percent of the weights a step


def layer_normalised_code(measured: Sequence[GroupMeasurement], base_lr: float) -> str:
    """Source of the optimizer, and its making for `model`."""
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
