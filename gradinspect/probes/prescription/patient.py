"""The model to prescribe for: fresh copies of it, and what can be read from a model without training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.reproducible import left_as_found
from gradinspect.probes.trial.task import Task


@dataclass(frozen=True, eq=False)
class Patient:
    """A model, its task, and a way to make copies that may be changed.

    Attributes:
        fresh: seed → a copy; a new initialisation where the model is built from a spec.
        seed: of the inspected initialisation.
        is_drawn: whether a seed gives another initialisation.
        is_scripted: only weights, rates and the optimizer of a TorchScript model can be changed.
    """

    task: Task
    fresh: Callable[[int], nn.Module]
    seed: int
    is_drawn: bool
    is_scripted: bool

    @classmethod
    def of(cls, s: SectionInput, task: Task) -> Patient:
        """Take the inspected model. A model that is not rebuilt is referred to, and copied when a plan is tried."""
        rebuild, model = s.rebuild, s.model
        if rebuild is not None:
            return cls(task, rebuild, s.seed, is_drawn=True, is_scripted=False)
        is_scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        return cls(task, lambda _seed: _copied(model, task.mode), s.seed, is_drawn=False, is_scripted=is_scripted)


def _copied(model: nn.Module, mode: str) -> nn.Module:
    """Copy a model without its gradients."""
    with left_as_found(model, mode), torch.no_grad():  # with gradients, a script's parameters are clones with a graph
        copied = copy.deepcopy(model)
    for parameter, original in zip(copied.parameters(), model.parameters(), strict=True):
        parameter.grad = None
        parameter.requires_grad_(original.requires_grad)
    return copied
