"""The section `trial`: train the model on its batch, say whether it learns, and restore it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch

from gradinspect.contracts.optimizers import Optimizer, Sgd
from gradinspect.contracts.report.trial import ArmOutcome, Trial, TrialArm, TrialVerdict
from gradinspect.contracts.request.request import TrialRequest
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.model_errors import is_models, read_error
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import left_as_found
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.probes.trial.arm import ARM_STEPS, ArmResult, restored, train_arm
from gradinspect.probes.trial.ladder import declared_family, is_pointless, is_same_family, steps_at, usual_families
from gradinspect.probes.trial.movement import Movement, checks_of
from gradinspect.probes.trial.task import Task
from gradinspect.probes.trial.yardstick import FEWEST, Yardstick
from gradinspect.probes.verify.budget import ProbeBudget

LONG_STEPS = 1000  # of the one run that is followed where none learned
COPIES = 4  # of the trained parameters: their start, gradients, and two moments of Adam


class FailedStepError(Exception):
    """Raised where the model or the loss fails in a training step after its first pass."""


def trial_section(s: SectionInput) -> SectionResult:
    """Train with the declared optimizer, or SGD and Adam, at one rate after another until the question is answered.

    Cost: 10-60 training steps for most healthy networks; at most the requested steps and seconds, plus one step.
    """
    requested = s.settings.trial if isinstance(s.settings.trial, TrialRequest) else TrialRequest()
    reason = _why_not(s)
    if reason is not None:
        return SectionResult(Trial(status="undetermined", reason=reason, max_steps=requested.steps))
    budget = ProbeBudget(max_steps=requested.steps, max_seconds=min(requested.seconds, max(s.budget.seconds_left, 0.0)))
    run = _TrialRun(s, Task.of(s), budget)
    try:
        run.answer()
    except FailedStepError as error:
        return SectionResult(run.document(failure=str(error)))
    return SectionResult(run.document())


def copies_bytes(s: SectionInput) -> int:
    """Return the size of what a trial copies: see `COPIES`, and the buffers."""
    trained = sum(entry.tensor.numel() * entry.tensor.element_size() for entry in s.parameters if entry.requires_grad)
    return COPIES * trained + sum(buffer.numel() * buffer.element_size() for buffer in s.model.buffers())


def _why_not(s: SectionInput) -> str | None:
    """Return why nothing is tried; None where a trial can begin."""
    if s.has_named_loss and s.settings.loss in ("output_mean", "random_cotangent"):
        return f"no_target: the loss {s.settings.loss} has no minimum to train towards"
    if not any(entry.requires_grad for entry in s.parameters):
        return "no_target: no parameter is trained"
    if not math.isfinite(s.reading.loss):
        return "not_finite: the loss is not finite before the first step"
    needed = copies_bytes(s)
    if s.memory_left_bytes is not None and needed > s.memory_left_bytes:
        return (
            f"memory: copies of the parameters, their gradients and the optimizer's state take {_shown(needed)}, and "
            f"{_shown(max(s.memory_left_bytes, 0))} are left"
        )
    return refused(s.budget, FEWEST * s.pass_seconds)


class _TrialRun:
    """The runs of one trial."""

    def __init__(self, s: SectionInput, task: Task, budget: ProbeBudget) -> None:
        self._s, self._task, self._budget = s, task, budget
        self._tried: list[tuple[Optimizer, ArmResult]] = []
        self._movement: Movement | None = None
        self._losses: tuple[float, ...] = ()
        self._is_cut = False

    def answer(self) -> None:
        """Try optimizers and rates until it is clear whether the model learns, or the budget ends."""
        declared = self._s.settings.optimizer
        height = Yardstick.of(
            chance=self._task.chance_loss, floor=self._task.floor_loss, first=self._s.reading.loss
        ).height
        families = usual_families(declared, height)
        if declared is not None:
            own, other = families if isinstance(declared, Sgd) else families[::-1]
            families = (chain(declared_family(declared), own), other)
        for family in families:
            is_learned = self._try_family(family)
            if declared is not None and is_learned:
                return  # the declared optimizer learns, or another does where it does not
        if not any(result.has_learned for _, result in self._tried):
            self._follow_the_best()

    def _follow_the_best(self) -> None:
        """Train the run that came furthest and was still falling again, for longer: some leave a plateau late."""
        falling = [
            (result.skill, index)
            for index, (_, result) in enumerate(self._tried)
            if result.ended == "too_slow" and result.skill is not None
        ]
        if not falling or self._is_cut:
            return
        _, index = max(falling)
        optimizer = self._tried[index][0]
        self._tried[index] = (optimizer, self._train(optimizer, max_steps=LONG_STEPS, is_last_hope=True))
        self._is_cut = self._tried[index][1].ended == "budget"

    def document(self, failure: str | None = None) -> Trial:
        """Make the section."""
        declared = self._s.settings.optimizer
        arms = tuple(
            result.document(optimizer, is_declared=declared is not None and index == 0)
            for index, (optimizer, result) in enumerate(self._tried)
        )
        same = [
            arm for (optimizer, _), arm in zip(self._tried, arms, strict=True)
            if declared is not None and is_same_family(optimizer, declared)
        ]  # fmt: skip
        verdict = "undetermined" if failure is not None else conclude(arms, same, is_cut=self._is_cut)
        cut = f"budget: it ended after {self._budget.steps_run} steps" if self._is_cut else None
        reason = failure or cut
        if verdict == "undetermined" and reason is None:
            reason = "the loss still fell when the longest run ended"
        return Trial(
            status="undetermined" if failure is not None else "measured",
            reason=reason,
            verdict=verdict,
            chance_loss=finite(self._task.chance_loss),
            floor_loss=self._task.floor_loss,
            initial_loss=finite(self._losses[0]) if self._losses else None,
            steps_at_declared_rate=finite(steps_at(arms[0], same[1:])) if same else None,
            arms=arms,
            unmoved_layers=self._movement.unmoved_layers() if self._movement is not None else (),
            checks=checks_of(self._losses, self._movement, failure),
            steps_run=self._budget.steps_run,
            max_steps=self._budget.max_steps,
        )

    def _try_family(self, optimizers: Iterator[Optimizer]) -> bool:
        """Try rates until one learns; return whether one did."""
        for optimizer in optimizers:
            if is_pointless(optimizer, self._tried):
                continue
            if not self._budget.allows(1):
                self._is_cut = True
                return False
            result = self._train(optimizer)
            self._tried.append((optimizer, result))
            self._is_cut = self._is_cut or result.ended == "budget"
            self._s.progress(self._budget.fraction_spent)
            if result.has_learned:
                return True
        return False

    def _train(self, optimizer: Optimizer, *, max_steps: int = ARM_STEPS, is_last_hope: bool = False) -> ArmResult:
        s = self._s
        before = self._budget.steps_run
        with left_as_found(s.model, s.settings.mode), restored(s.model) as start:
            try:
                result = train_arm(
                    s.model, optimizer, self._task, self._budget, max_steps=max_steps, is_last_hope=is_last_hope
                )
            except Exception as error:
                if out_of_memory(error) or not (isinstance(error, RuntimeError) or is_models(error)):
                    raise
                done = self._budget.steps_run - before
                self._losses = (s.reading.loss,) * min(done, 1)
                raise FailedStepError(f"step {done + 1} of training fails: {read_error(error)}") from error
            self._observe(result, start)
        return result

    def _observe(self, result: ArmResult, start: Mapping[ParameterEntry, torch.Tensor]) -> None:
        """Keep what the declared run shows; where none is declared, the first run that stays finite."""
        is_declared = self._s.settings.optimizer is not None
        if not result.losses or (self._movement is not None and (is_declared or self._movement.is_finite)):
            return
        movement = Movement(self._s, start)
        if self._movement is None or movement.is_finite:
            self._movement, self._losses = movement, result.losses


def conclude(arms: Sequence[TrialArm], same: Sequence[TrialArm], *, is_cut: bool) -> TrialVerdict:
    """Say what the runs show together.

    Args:
        arms: all of them.
        same: those of the declared optimizer, the declared rate first; empty where none is declared.
        is_cut: the budget ended a run or kept one from being begun.
    """
    learned = [arm for arm in arms if arm.outcome == "learns"]
    if same and same[0].outcome == "learns":
        return "learns"
    if same and learned:
        return "other_rate" if any(arm in same for arm in learned) else "other_optimizer"
    if learned:
        return _of_families(arms, is_cut=is_cut)
    if is_cut:
        # What the declared run shows is known, whatever other rates would do.
        return same[0].outcome if same else "undetermined"
    shown = {arm.outcome for arm in arms if not _is_overtaken(arm, arms)}
    return next((outcome for outcome in _BY_WEIGHT if outcome in shown), "undetermined")


# What runs of which none learned show together: the most hopeful outcome.
_BY_WEIGHT: tuple[ArmOutcome, ...] = ("slow", "undetermined", "does_not_learn", "diverges")


def _of_families(arms: Sequence[TrialArm], *, is_cut: bool) -> TrialVerdict:
    """Say what runs show where no optimizer is declared: one of SGD and Adam learned, or both."""
    for family in ("sgd", "adam"):
        outcomes = [arm.outcome for arm in arms if arm.optimizer == family]
        is_open = is_cut or "slow" in outcomes or "undetermined" in outcomes
        if "learns" not in outcomes and not is_open:
            return "other_optimizer"
    return "learns"


def _is_overtaken(arm: TrialArm, arms: Sequence[TrialArm]) -> bool:
    """Check that a run which still fell is on its way to a plateau that a larger rate of its optimizer has reached."""
    return arm.outcome == "undetermined" and any(
        (other.optimizer, other.momentum) == (arm.optimizer, arm.momentum)
        and other.lr > arm.lr
        and other.outcome in ("does_not_learn", "slow")
        for other in arms
    )


def _shown(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
