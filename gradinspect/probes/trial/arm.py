"""One training run of any model on a trial's task, which stops as soon as it shows something."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.trial import ArmOutcome, TrialArm
from gradinspect.engine.network.optimizers import UpdateState, steps_of
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.network.reproducible import ordinary_graphs, seeded
from gradinspect.probes.trial.task import Prepare, Task
from gradinspect.probes.trial.yardstick import (
    Ended,
    Yardstick,
    is_falling,
    outcome_of,
    smoothed_end,
    why_ended,
)
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.trained_parameters import TrainedParameters, suitable_threads

ARM_STEPS = 300  # chosen: an LSTM at a small rate needs 150
STAYED = 0.01  # skill
BLOCK = 25  # steps after which random draws restart, so that a run does not depend on how it is cut

Step = Callable[[torch.Tensor], None]  # takes the loss, moves the parameters


@dataclass(frozen=True)
class ArmResult:
    """What one run showed.

    Attributes:
        outcome: learns, slow, does_not_learn, diverges; undetermined where it was stopped while the loss still fell.
        skill: of the last steps' mean loss; None where that is not finite.
        losses: one a step, before the step.
        is_falling: the loss was still falling at the end.
        ended: why the run ended.
        has_stayed: no loss differs from the first by a hundredth of what can be learned.
    """

    outcome: ArmOutcome
    skill: float | None
    losses: tuple[float, ...]
    is_falling: bool
    ended: Ended
    has_stayed: bool = False

    @property
    def has_learned(self) -> bool:
        """Check that the run reached half of what can be learned."""
        return self.outcome == "learns"

    def document(self, optimizer: Optimizer, *, is_declared: bool = False) -> TrialArm:
        """Make the report's row."""
        return TrialArm(
            optimizer=optimizer.type,
            momentum=getattr(optimizer, "momentum", None),
            lr=optimizer.lr,
            declared=is_declared,
            outcome=self.outcome,
            skill=self.skill,
            steps=len(self.losses),
            curve=tuple(float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in self.losses),
        )


def train_arm(
    model: nn.Module,
    optimizer: Optimizer | torch.optim.Optimizer,
    task: Task,
    budget: ProbeBudget,
    *,
    prepare: Prepare | None = None,
    max_steps: int = ARM_STEPS,
    is_last_hope: bool = False,
) -> ArmResult:
    """Train a model in place until it has learned, has diverged, is on a plateau or cannot catch up.

    The model keeps its trained weights; `restored` puts them back. Its `grad` attributes, its mode and the random
    state are left as they were.

    Args:
        model: eager or scripted; it takes the task's inputs. It may be a changed copy of the inspected model.
        optimizer: a declared one, for all trained parameters, or one of `torch.optim` that holds this model's
            parameters. A declared one takes the steps of `torch.optim`.
        task: the batch and the loss.
        budget: of all runs together; it is never exceeded by more than the step that was begun.
        prepare: transforms inputs and target of every batch; the loss's scale is then that of the new targets.
        max_steps: of this run.
        is_last_hope: go on while the loss falls, even too slowly to have learned by then at the pace so far.

    Returns:
        The outcome and the curve. `does_not_learn` is said of a plateau only.

    Raises:
        Exception: what the model or the loss raises after its first pass, such as a second backward through a state.
    """
    task = task.prepared(prepare) if prepare is not None else task
    samples = task.inputs[0].shape[0] if task.inputs and task.inputs[0].dim() else 1
    losses: list[float] = []
    scale: Yardstick | None = None
    ended: Ended | None = None
    with _training(model, task.mode), _stepper(model, optimizer) as (count, step), suitable_threads(count * samples):
        while ended is None:
            with seeded((task.seed + 1_000_003 * (len(losses) // BLOCK)) % 2**63, task.device):
                for _ in range(BLOCK):
                    if not (budget.in_time() and budget.steps_run < budget.max_steps):
                        ended = "budget"
                        break
                    loss = task.loss_of(model)
                    step(loss)
                    budget.spend(1)
                    losses.append(float(loss.detach()))
                    scale = scale or Yardstick.of(chance=task.chance_loss, floor=task.floor_loss, first=losses[0])
                    ended = why_ended(losses, scale, max_steps=max_steps, is_last_hope=is_last_hope)
                    if ended is not None:
                        break
    return _result(losses, scale, ended)


@contextmanager
def restored(model: nn.Module) -> Iterator[dict[ParameterEntry, torch.Tensor]]:
    """Put a model's trained parameters back after the block, bit for bit.

    Yields:
        Their values at the start, which are not to be changed.
    """
    saved = {entry: entry.tensor.detach().clone() for entry in ParameterIndex(model) if entry.requires_grad}
    try:
        yield saved
    finally:
        with torch.no_grad():
            for entry, value in saved.items():
                entry.tensor.copy_(value)


def _result(losses: list[float], scale: Yardstick | None, ended: Ended) -> ArmResult:
    if scale is None:
        return ArmResult("undetermined", None, (), False, ended)
    end = smoothed_end(losses)
    return ArmResult(
        outcome=outcome_of(losses, scale),
        skill=scale.skill(end) if math.isfinite(end) else None,
        losses=tuple(losses),
        is_falling=is_falling(losses, scale),
        ended=ended,
        has_stayed=all(abs(loss - losses[0]) < STAYED * scale.height for loss in losses),
    )


@contextmanager
def _training(model: nn.Module, mode: str) -> Iterator[None]:
    """Run the model in a mode and with ordinary graphs, with gradients enabled; its mode is put back."""
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    if model in modes:
        model.train(mode == "train")
    try:
        with torch.enable_grad(), ordinary_graphs():
            yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training


@contextmanager
def _stepper(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer) -> Iterator[tuple[int, Step]]:
    """Make the step of an optimizer.

    Yields:
        The number of elements that it moves, and the step.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        yield from _of_object(optimizer)
        return
    trained = TrainedParameters([entry for entry in ParameterIndex(model) if entry.requires_grad])
    update, state = steps_of(optimizer).update, UpdateState()
    rates = [optimizer.lr] * len(trained.tensors)
    elements = sum(tensor.numel() for tensor in trained.tensors)
    yield elements, lambda loss: trained.step(loss, update, rates, state)


def _of_object(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, Step]]:
    held = [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.requires_grad]
    before = [tensor.grad for tensor in held]

    def step(loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, held, allow_unused=True)
        for tensor, gradient in zip(held, gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()

    try:
        yield sum(tensor.numel() for tensor in held), step
    finally:
        for tensor, gradient in zip(held, before, strict=True):
            tensor.grad = gradient
