"""One attempt: execute the printed block on a fresh copy and train what it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.actions import Action
from gradinspect.contracts.report.prescription_code import change_of, prescription_code
from gradinspect.contracts.report.trial import Change
from gradinspect.engine.network.batch import Target
from gradinspect.engine.network.reproducible import seeded
from gradinspect.probes.prescription.patient import Patient
from gradinspect.probes.trial.arm import ArmResult, train_arm
from gradinspect.probes.trial.task import Inputs, Prepare, Task
from gradinspect.probes.verify.budget import ProbeBudget


@dataclass(frozen=True)
class Step:
    """An action and the finding that it answers."""

    action: Action
    rule: str | None = None


Plan = tuple[Step, ...]


def changes_of(plan: Sequence[Step]) -> tuple[Change, ...]:
    """Record the steps of a plan as changes of a report."""
    return tuple(change_of(step.action, step.rule) for step in plan)


@dataclass(frozen=True)
class Attempt:
    """A plan with an optimizer, as it was tried.

    Attributes:
        result: of the training run; None where the block or the model raised.
        error: what was raised.
    """

    plan: Plan
    optimizer: Optimizer
    result: ArmResult | None
    error: str | None = None

    @property
    def has_learned(self) -> bool:
        """Check that the changed model learned."""
        return self.result is not None and self.result.has_learned

    @property
    def skill(self) -> float:
        """Return the skill at the end; −∞ where there is none."""
        skill = self.result.skill if self.result is not None else None
        return -math.inf if skill is None else skill


def attempt(
    patient: Patient, plan: Plan, optimizer: Optimizer, budget: ProbeBudget, *, seed: int, max_steps: int
) -> Attempt:
    """Try one plan.

    The text is our own, made from checked arguments. Whatever the block, the changed model or the loss raise makes the
    plan useless and nothing else.

    Args:
        patient: what to try it on.
        plan: the changes, without the optimizer.
        optimizer: to train with.
        budget: of all attempts together.
        seed: of the copy's initialisation and of what the block draws.
        max_steps: of the training run.
    """
    try:
        executed = execute(patient, plan, optimizer, seed=seed)
        result = train_arm(executed.model, executed.optimizer, executed.task, budget, max_steps=max_steps)
    except Exception as error:  # noqa: BLE001  # the changed model may raise anything
        return Attempt(plan, optimizer, None, f"{type(error).__name__}: {error}"[:500])
    return Attempt(plan, optimizer, result)


@dataclass(frozen=True, eq=False)
class Executed:
    """What a block left: the changed model, its optimizer, and the task on the prepared batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task


def execute(patient: Patient, plan: Plan, optimizer: Optimizer, *, seed: int) -> Executed:
    """Execute the block of a plan, as text, on a fresh copy.

    Raises:
        Exception: whatever the block raises; LookupError where it would change nothing.
    """
    code = prescription_code(changes_of(plan), optimizer)
    with seeded(seed, patient.task.device):
        scope: dict[str, Any] = {"model": patient.fresh(seed)}  # Any: the names that the block leaves
        exec(code, scope)  # noqa: S102  # so that what is tried is what is printed
    prepare = _prepare(scope)
    task = patient.task if prepare is None else patient.task.prepared(prepare)
    return Executed(scope["model"], scope["optimizer"], replace(task, seed=seed))


def spread_of_gradients(executed: Executed) -> float:
    """Return the decades between the weights' largest and smallest gradient relative to the weight.

    Infinite where a gradient is zero everywhere, missing or not finite. Cost: one forward and one backward pass.
    """
    model, task = executed.model, executed.task
    weights = [tensor for tensor in model.parameters() if tensor.dim() >= 2 and tensor.requires_grad]
    with torch.enable_grad(), seeded(task.seed, task.device):
        gradients = torch.autograd.grad(task.loss_of(model), weights, allow_unused=True)
    ratios = [
        float(gradient.detach().double().norm()) / max(float(weight.detach().double().norm()), 1e-30)
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    ]
    if not ratios or min(ratios) <= 0 or not all(map(math.isfinite, ratios)):
        return math.inf
    return math.log10(max(ratios) / min(ratios))


def _prepare(scope: dict[str, Any]) -> Prepare | None:
    """Return the block's transform in the form that training takes: the block's users give a single input as such."""
    prepare = scope.get("prepare")
    if prepare is None:
        return None

    def prepared(inputs: Inputs, target: Target) -> tuple[Inputs, Target]:
        changed, changed_target = prepare(inputs[0] if len(inputs) == 1 else inputs, target)
        return ((changed,) if isinstance(changed, torch.Tensor) else tuple(changed)), changed_target

    return prepared
