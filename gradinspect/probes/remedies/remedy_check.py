"""Try a remedy on a fresh copy of the network, by the code that the report prints, and measure the copy.

Cheap remedies only, those that change how weights are drawn, which activation is used, or a branch's scale: one more
build and one more first-order pass each. A remedy that needs another architecture is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Measurements, Remedy, RemedyCheck
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.fixed_loss import CustomLoss
from gradinspect.engine.network.modules import Residual
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.rows.depth_decay import depth_decay
from gradinspect.engine.rows.layer_rows import layer_rows
from gradinspect.rules.trials import TRIED

Suggest = Callable[[Measurements], Sequence[Remedy]]  # which remedies are worth trying: rules.remedies_to_try

COST_IN_PASSES = 3.0  # chosen: the build, and a pass that may take twice what the first took
MOST_REMEDIES = 4


@dataclass(frozen=True)
class Trial:
    """How to make a fresh copy of the network, and the batch and target on which it was measured.

    There is no reference to the measured network, so that its memory can be freed before.
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
        """Take what a trial needs; None where we do not draw the network's initialisation."""
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
    checks: list[RemedyCheck] = []
    for remedy in remedies[:MOST_REMEDIES]:
        if not budget.allows(COST_IN_PASSES * trial.pass_seconds):
            break
        model = trial.rebuild(trial.seed)
        with seeded(trial.seed, trial.device), torch.no_grad():
            applied = apply_remedy(model, remedy)
        if applied:
            checks.append(_measured(model, trial, remedy))
    return tuple(checks)


def apply_remedy(model: nn.Module, remedy: Remedy) -> bool:
    """Change a network by a remedy's own code.

    The code is executed: callers pass remedies that the rules have just made, never those of a stored report.

    Returns:
        False for a remedy that is not one of those to try, or that finds nothing to change.
    """
    if remedy.action not in TRIED:
        return False
    if remedy.action == "scale_residual":
        return _scale_residuals(model, float(remedy.arguments["scale"]))
    if remedy.code is None:
        return False
    try:
        exec(remedy.code, {"model": model})  # noqa: S102  # so that what is tried is what is printed
    except LookupError:
        return False
    return True


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


def _scale_residuals(model: nn.Module, scale: float) -> bool:
    """Set the scale of a spec's residual blocks. No code is printed for it: other models have no such attribute."""
    blocks = [module for module in model.modules() if isinstance(module, Residual)]
    for block in blocks:
        block.scale = scale
    return bool(blocks)
