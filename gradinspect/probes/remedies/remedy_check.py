"""Whether a remedy helps: applied to a fresh copy of the network, which is then measured again.

Cheap remedies only, those that change how weights are drawn, which activation is used, or a branch's scale: one more
build and one more first-order pass each. A remedy that needs another architecture is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.nonlinearities import NONLINEARITIES
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Measurements, Remedy, RemedyCheck
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.first_pass import CustomLoss, Subject, first_pass
from gradinspect.engine.first_order.memory import out_of_memory
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.modules import Residual
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.rows.depth_decay import depth_decay
from gradinspect.engine.rows.layer_rows import layer_rows

# From what was measured to the remedies that are worth trying; rules know, the engine does not.
Suggest = Callable[[Measurements], Sequence[Remedy]]
Arguments = Mapping[str, Any]  # Any: each action has its own arguments

COST_IN_PASSES = 3.0  # chosen: the build, and a pass that may take twice what the first took
MOST_REMEDIES = 4
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FILL: dict[str, Callable[..., torch.Tensor]] = {
    "kaiming_normal_": nn.init.kaiming_normal_,
    "xavier_normal_": nn.init.xavier_normal_,
}
# Functions that the remedy replaces: those that saturate on both sides. And what replaces them.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    record.name: getattr(nn, record.layers[0].name)
    for record in NONLINEARITIES
    if record.largest_slope is not None or record.name == "relu"
}


@dataclass(frozen=True)
class Trial:
    """What a remedy is tried on: the way to a fresh copy of the network, and the batch and target it was measured on.

    The measured network itself is not held, so that its memory is free by then.
    """

    rebuild: Callable[[int], nn.Module]
    batch: Batch
    seed: int
    settings: InspectionSettings
    device: torch.device
    pass_seconds: float
    custom_loss: CustomLoss | None = None

    @classmethod
    def of(cls, s: SectionInput, custom_loss: CustomLoss | None) -> Trial | None:
        """None where the network's initialisation is not ours to draw."""
        if s.rebuild is None:
            return None
        target = s.target
        batch = replace(s.batch, target_for=lambda _output: target)
        return cls(s.rebuild, batch, s.seed, s.settings, s.device, s.pass_seconds, custom_loss)


def check_remedies(trial: Trial, remedies: Sequence[Remedy], budget: Budget) -> tuple[RemedyCheck, ...]:
    """Try each remedy on its own fresh copy of the network.

    Args:
        trial: what to try them on.
        remedies: what to try.
        budget: time for all of them; a remedy that does not fit is left out.

    Returns:
        One check for each remedy that could be applied.

    Cost: one build and one first-order pass a remedy.
    """
    found: list[RemedyCheck] = []
    for remedy in remedies[:MOST_REMEDIES]:
        if not budget.allows(COST_IN_PASSES * trial.pass_seconds):
            break
        model = trial.rebuild(trial.seed)
        with seeded(trial.seed, trial.device), torch.no_grad():
            applied = apply_remedy(model, remedy.action, remedy.arguments)
        if applied:
            found.append(_measured(model, trial, remedy))
    return tuple(found)


def apply_remedy(model: nn.Module, action: str, arguments: Arguments) -> bool:
    """Change a network as a remedy says; False when it is not one of those that can be tried, or finds nothing."""
    if action == "initialize":
        return _orthogonal_gates(model) if arguments.get("parameters") == "weight_hh" else _draw(model, arguments)
    if action == "replace_activation":
        changed = _replace(model, str(arguments.get("from")), str(arguments.get("to")))
        return changed and _draw(model, arguments.get("initialize") or {})
    if action == "scale_residual":
        return _scale(model, float(arguments["scale"]))
    return False


def _measured(model: nn.Module, trial: Trial, remedy: Remedy) -> RemedyCheck:
    check = RemedyCheck(action=remedy.action, arguments=remedy.arguments)
    subject = Subject(model, trial.batch, trial.seed)
    try:
        s = first_pass(subject, trial.settings, device=trial.device, custom_loss=trial.custom_loss)
    except InspectionError as error:
        return check.model_copy(update={"reason": error.detail})
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return check.model_copy(update={"reason": "memory: it ran out; a smaller batch leaves more room"})
    decay = depth_decay([layer_rows(s.reading, s.names, s.parameters)])
    return check.model_copy(update={"cumulative_gain": decay.cumulative_gain})


def _draw(model: nn.Module, arguments: Arguments) -> bool:
    """Draw the weights of linear and convolutional layers anew; biases become zero."""
    fill = _FILL.get(str(arguments.get("function")))
    layers = [module for module in model.modules() if isinstance(module, _AFFINE)]
    if fill is None or not layers:
        return False
    for module in layers:
        fill(module.weight, **(arguments.get("arguments") or {}))
        module.weight.mul_(float(arguments.get("multiply_by", 1.0)))
        if module.bias is not None:
            module.bias.zero_()
    return True


def _orthogonal_gates(model: nn.Module) -> bool:
    weights = [parameter for name, parameter in model.named_parameters() if "weight_hh" in name]
    for weight in weights:
        for gate in torch.split(weight, weight.shape[1]):
            nn.init.orthogonal_(gate)
    return bool(weights)


def _replace(model: nn.Module, old: str, new: str) -> bool:
    if old not in _ACTIVATIONS or new not in _ACTIVATIONS:
        return False
    found = False
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is _ACTIVATIONS[old]:
                setattr(parent, name, _ACTIVATIONS[new]())
                found = True
    return found


def _scale(model: nn.Module, scale: float) -> bool:
    blocks = [module for module in model.modules() if isinstance(module, Residual)]
    for block in blocks:
        block.scale = scale
    return bool(blocks)
