"""The source code of a learning-rate section: its own optimizer, and that of each remedy.

One pure function of the section's numbers and names. The process that inspects a model and the one that serves the
report both call it, so that no text of an untrusted process is served as code.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.contracts.optimizers import ASSUMED, Adam, Optimizer
from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.section import MAX_CODE
from gradinspect.contracts.report.sections import LrScales, ScaleGroup, ScaleRemedy, WeightGain

RESCALE_GAINS, LAYER_NORMALISED, ADAM = "rescale_gains", "layer_normalised_updates", "adam"


def with_scale_code(section: LrScales, optimizer: Optimizer | None) -> LrScales:
    """Return the section with all its source code made anew from its numbers and names.

    Args:
        section: as measured; its code is ignored.
        optimizer: as declared in the request; None: plain SGD.
    """
    remedies = tuple(
        remedy.model_copy(update={"code": _bounded(_remedy_code(remedy, section.groups, optimizer or ASSUMED))})
        for remedy in section.remedies
    )
    code = optimizer_code(section, optimizer=optimizer) if section.status == "measured" else None
    return section.model_copy(update={"remedies": remedies, "code": _bounded(code)})


def _bounded(code: str | None) -> str | None:
    return code if code is not None and len(code) <= MAX_CODE else None


def _remedy_code(remedy: ScaleRemedy, groups: Sequence[ScaleGroup], optimizer: Optimizer) -> str | None:
    """Write the source that trains as a remedy did; None for one that this release does not know."""
    if remedy.base_lr is None:
        return None
    if remedy.name == RESCALE_GAINS:
        return _gain_code(
            remedy.gains, optimizer_code(LrScales(verdict="use"), optimizer=optimizer, base_lr=remedy.base_lr)
        )
    if remedy.name == LAYER_NORMALISED:
        return _layer_normalised_code(groups, remedy.base_lr)
    if remedy.name == ADAM:
        source = Adam(type="adam").source("model.parameters()", lr=repr(remedy.base_lr))
        return f"import torch\n\noptimizer = {source}\n"
    return None


def _gain_code(gains: Sequence[WeightGain], plain: str) -> str:
    """Write source that rescales the weights of `model` in place and makes its optimizer."""
    rows = "".join(f"    {row.parameter!r}: {row.gain!r},\n" for row in gains)
    return (
        "import torch\n\n"
        f"gains = {{\n{rows}}}\n"
        "named = dict(model.named_parameters(remove_duplicate=False))\n"
        "with torch.no_grad():\n"
        "    for name, gain in gains.items():\n"
        "        named[name].mul_(gain)\n"
        f"{plain}"
    )


def _layer_normalised_code(groups: Sequence[ScaleGroup], base_lr: float) -> str:
    """Write the class of `layer_normalised_updates`, and its construction for `model`."""
    rows = "".join(f"    [{', '.join(map(repr, group.parameters))}],\n" for group in groups)
    return _LAYER_NORMALISED + (
        f"\n\nlayers = [\n{rows}]\n"
        "named = dict(model.named_parameters(remove_duplicate=False))\n"
        f"optimizer = LayerNormalised([[named[name] for name in names] for names in layers], lr={base_lr!r})\n"
    )


_LAYER_NORMALISED = '''import math

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
