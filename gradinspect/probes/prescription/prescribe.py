"""The search for a prescription: cheapest plans first, the first that learns, without what it does not need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.actions.training import SetOptimizer
from gradinspect.contracts.report.prescription_code import prescription_code
from gradinspect.contracts.report.report import Finding, Measurements
from gradinspect.contracts.report.trial import Prescription, PrescriptionOutcome, Trial, TrialArm
from gradinspect.probes.prescription.attempt import (
    Attempt,
    Plan,
    Step,
    attempt,
    changes_of,
    execute,
    spread_of_gradients,
)
from gradinspect.probes.prescription.candidates import Candidate, candidates
from gradinspect.probes.prescription.confirm import Confirmation, confirm
from gradinspect.probes.prescription.facts import Facts
from gradinspect.probes.prescription.patient import Patient
from gradinspect.probes.prescription.plans import learned_optimizers, optimizers, plans
from gradinspect.probes.verify.budget import ProbeBudget

SCREEN_STEPS, LONGER_STEPS = 100, 300  # chosen: healthy networks learn in 4-80 steps at a suitable rate
COMPARABLE = 0.9  # of the skill, and 1/2 of the speed, that a plan must keep when a change is dropped from it
MOST_CHANGES = 16
UNEVEN_DECADES = 4.0  # between layers' gradients relative to their weights; chosen: healthy networks stay under 3

# What a trial on one batch cannot show: a network may memorise it all the same.
ABOUT_RATES = frozenset({"learning_rate", "does_not_learn"})
HIDDEN_HARM = frozenset({"saturated_activation", "initial_loss", "input_scale", "target_scale", "output_activation"})


def prescribe(
    patient: Patient,
    measured: Measurements,
    findings: Sequence[Finding],
    trial: Trial,
    *,
    declared: Optimizer | None,
    budget: ProbeBudget,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Prescription:
    """Find changes with which the model learns.

    Args:
        patient: the model and its task.
        measured: what was measured, with tested learning-rate scales where they were requested.
        findings: of the rules, by which remedies are chosen.
        trial: of the unchanged model.
        declared: the request's optimizer.
        budget: what the trial left.
        progress: called with the fraction of the budget that is spent.

    Returns:
        The prescription, with its code.
    """
    if trial.status != "measured" or not trial.arms:
        return Prescription(outcome="not_tried", reason=trial.reason or "the learning trial was not made")
    before = _best(trial.arms)
    search = _Search(patient, trial, declared, budget, progress)
    learned = learned_optimizers(trial)
    as_declared = any(arm.declared and arm.outcome == "learns" for arm in trial.arms)
    is_rate_at_fault = any(finding.rule in ABOUT_RATES and finding.severity != "info" for finding in findings)
    needs_optimizer = is_rate_at_fault and not as_declared
    try:
        facts = Facts.of(patient, measured, findings)
    except Exception as error:  # noqa: BLE001  # a model may refuse to be copied, in any way
        reason = f"the model cannot be copied: {type(error).__name__}: {error}"[:500]
        return Prescription(outcome="not_tried", reason=reason, skill_before=before.skill)
    offered = candidates(facts)
    if learned and not needs_optimizer:
        return search.better(before, [one for one in offered if _answers_hidden_harm(one, findings)])
    if learned:
        found = search.first([()], learned)
        if found is not None:
            return search.prescription("found", found, before)
    found = search.in_rounds(plans(offered), optimizers(declared, trial))
    if found is None:
        return search.nothing(before)
    return search.prescription("found", search.pruned(found), before)


@dataclass
class _Search:
    """Attempts within one budget."""

    patient: Patient
    trial: Trial
    declared: Optimizer | None
    budget: ProbeBudget
    progress: Callable[[float], None]
    attempts: list[Attempt] = field(default_factory=list)
    last_error: str | None = None
    _confirmed: dict[str, Confirmation | None] = field(default_factory=dict)

    def first(self, several: Sequence[Plan], ladder: Sequence[Optimizer]) -> Attempt | None:
        """Return the first attempt that learns and is confirmed."""
        for plan in several:
            for optimizer in ladder:
                if not self.budget.allows(1):
                    return None
                tried = self.attempt(plan, optimizer)
                if tried.result is None:
                    break  # the block cannot be applied, whatever the optimizer
                if tried.has_learned and self._is_confirmed(tried):
                    return tried
        return None

    def in_rounds(self, several: Sequence[Plan], ladder: Sequence[Optimizer]) -> Attempt | None:
        """Try every plan with the first optimizers before any is tried with the others.

        Plans whose gradients still differ by many decades between layers come last.
        """
        promising: list[Plan] = []
        others: list[Plan] = []
        for plan in several:
            spread = self._spread(plan, ladder[0])
            if spread is not None:
                (promising if spread <= UNEVEN_DECADES else others).append(plan)
        for part in (promising, others):
            for optimizers_of_round in (ladder[:2], ladder[2:]):
                found = self.first(part, optimizers_of_round)
                if found is not None:
                    return found
        return self._longer()

    def _longer(self) -> Attempt | None:
        """Try those again, for longer, that were stopped while their loss still fell; the best first."""
        falling = [one for one in self.attempts if one.result is not None and one.result.is_falling]
        for one in sorted(falling, key=lambda one: -one.skill):
            if not self.budget.allows(1):
                return None
            tried = self.attempt(one.plan, one.optimizer, max_steps=LONGER_STEPS)
            if tried.has_learned and self._is_confirmed(tried):
                return tried
        return None

    def _spread(self, plan: Plan, optimizer: Optimizer) -> float | None:
        """Measure a plan's gradients; None where its block or the changed model raises."""
        if not self.budget.allows(1):
            return None
        self.budget.spend(1)
        try:
            return spread_of_gradients(execute(self.patient, plan, optimizer, seed=self.patient.seed))
        except Exception as error:  # noqa: BLE001  # the changed model may raise anything
            self.last_error = f"{type(error).__name__}: {error}"[:500]
            return None

    def attempt(self, plan: Plan, optimizer: Optimizer, *, max_steps: int = SCREEN_STEPS) -> Attempt:
        """Try a plan with an optimizer."""
        tried = attempt(self.patient, plan, optimizer, self.budget, seed=self.patient.seed, max_steps=max_steps)
        self.attempts.append(tried)
        self.last_error = tried.error or self.last_error
        self.progress(self.budget.fraction_spent)
        return tried

    def pruned(self, found: Attempt) -> Attempt:
        """Drop steps without which the model learns as well."""
        for step in found.plan:
            shorter = tuple(other for other in found.plan if other is not step)
            if not shorter or not self.budget.allows(1):
                continue
            tried = self.attempt(shorter, found.optimizer)
            if tried.has_learned and _is_comparable(tried, found) and self._is_confirmed(tried):
                found = tried
        return found

    def better(self, before: TrialArm, offered: Sequence[Candidate]) -> Prescription:
        """Try remedies of a defect that does not keep the model from learning its batch; one must learn faster."""
        optimizer = learned_optimizers(self.trial)[0]
        for one in offered:
            if not self.budget.allows(1):
                break
            tried = self.attempt(one.plan, optimizer)
            if tried.has_learned and _is_faster(tried, before) and self._is_confirmed(tried):
                return self.prescription("found", tried, before)
        reason = "the model learns as it is" if not offered else "the model learns as it is, and no change was faster"
        return Prescription(outcome="not_needed", reason=reason, skill_before=before.skill, tried=len(self.attempts))

    def nothing(self, before: TrialArm) -> Prescription:
        """Say that no plan was found."""
        spent = self.budget.is_exhausted
        reason = "the budget ended before a change was found" if spent else "no change that was tried let it learn"
        if not self.attempts:
            reason = "budget: the trial used it up" if spent else "no change is known that could be tried"
        outcome: PrescriptionOutcome = "not_tried" if not self.attempts else "not_found"
        return Prescription(
            outcome=outcome,
            reason=reason,
            skill_before=before.skill,
            curve_before=before.curve,
            tried=len(self.attempts),
        )

    def prescription(self, outcome: PrescriptionOutcome, found: Attempt, before: TrialArm) -> Prescription:
        """Write the prescription, with the curve of the block at full length."""
        run = self._confirmed[repr((found.plan, found.optimizer))]
        assert run is not None
        plan = found.plan
        if self.declared is None or found.optimizer != self.declared:
            plan = (*plan, Step(SetOptimizer(optimizer=found.optimizer), _optimizer_rule(plan)))
        changes = changes_of(plan)[:MOST_CHANGES]
        return Prescription(
            outcome=outcome,
            changes=changes,
            optimizer=found.optimizer,
            code=prescription_code(changes, found.optimizer),
            skill_before=before.skill,
            skill_after=run.skill,
            curve_before=before.curve,
            curve=run.curve,
            seeds=run.seeds,
            tried=len(self.attempts),
        )

    def _is_confirmed(self, tried: Attempt) -> bool:
        key = repr((tried.plan, tried.optimizer))  # arguments may hold dicts, which have no hash
        if key not in self._confirmed:
            self._confirmed[key] = confirm(self.patient, tried.plan, tried.optimizer, self.budget)
        return self._confirmed[key] is not None


def _best(arms: Sequence[TrialArm]) -> TrialArm:
    """Return the arm to compare with: the declared one, else the best."""
    declared = [arm for arm in arms if arm.declared]
    return max(declared or arms, key=lambda arm: arm.skill if arm.skill is not None else -math.inf)


def _answers_hidden_harm(candidate: Candidate, findings: Sequence[Finding]) -> bool:
    """Check that a finding which a trial cannot contradict asks for this remedy."""
    harms = {finding.rule for finding in findings if finding.rule in HIDDEN_HARM and finding.severity != "info"}
    return any(step.rule in harms for step in candidate.plan)


def _is_comparable(shorter: Attempt, full: Attempt) -> bool:
    assert shorter.result is not None
    assert full.result is not None
    is_as_fast = len(shorter.result.losses) <= 2 * len(full.result.losses)
    return is_as_fast and shorter.skill >= COMPARABLE * full.skill


def _is_faster(tried: Attempt, before: TrialArm) -> bool:
    assert tried.result is not None
    return len(tried.result.losses) < before.steps


def _optimizer_rule(plan: Plan) -> str | None:
    return next((step.rule for step in plan if step.rule is not None), "learning_rate")
