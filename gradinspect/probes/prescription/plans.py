"""Which plans are tried, in which order, and with which optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradinspect.contracts.optimizers import Adam, Optimizer, Sgd
from gradinspect.contracts.report.trial import Trial, TrialArm
from gradinspect.probes.prescription.attempt import Plan
from gradinspect.probes.prescription.candidates import Candidate

MOST_PLANS = 24  # chosen: with more, each would have too few steps
ADAM_RATES = (1e-3, 1e-2, 1e-4)
SGD_RATES = (0.1, 0.01, 1e-3)


def plans(candidates: Sequence[Candidate]) -> list[Plan]:
    """Return the plans in the order in which they are tried: each remedy alone, then combinations in order of cost.

    All defects that were seen are mended together, and the general remedies are added to that.
    """
    direct = [one.plan for one in candidates if one.is_direct]
    general = [one.plan for one in candidates if not one.is_direct]
    ordered: list[Plan] = [*direct]
    together = _together(direct)
    if len(direct) > 1:
        ordered.append(together)
    if not direct:
        ordered += general
    for plan in general if direct else ():
        ordered.append(_together([together, plan]))
    for first, second in _pairs(general):
        ordered.append(_together([together, first, second]))
    if direct:
        ordered += general
    distinct: dict[tuple[str, ...], Plan] = {}
    for plan in ordered:
        if plan:
            distinct.setdefault(tuple(repr(step.action) for step in plan), plan)
    return list(distinct.values())[:MOST_PLANS]


def learned_optimizers(trial: Trial) -> list[Optimizer]:
    """Return the optimizers with which the trial saw the unchanged model learn, the best arm first."""
    arms = [arm for arm in trial.arms if arm.outcome == "learns"]
    return [optimizer_of(arm) for arm in sorted(arms, key=lambda arm: (not arm.declared, len(arm.curve)))]


def optimizers(declared: Optimizer | None, trial: Trial) -> list[Optimizer]:
    """Return the optimizers to try a plan with: the declared one, then the other family, then other rates.

    Where the unchanged model diverged as declared, a smaller rate comes second.
    """
    adam = [Adam(type="adam", lr=rate) for rate in ADAM_RATES]
    momentum = [Sgd(type="sgd", lr=rate, momentum=0.9) for rate in SGD_RATES]
    if declared is None:
        return [adam[0], momentum[0], momentum[1], adam[1], adam[2]]
    other = momentum[:2] if declared.is_adaptive else adam[:2]
    slower, much_slower, faster = (_at(declared, factor) for factor in (0.1, 0.01, 10.0))
    if _diverged(trial):
        return [declared, slower, other[0], much_slower, other[1]]
    return [declared, other[0], slower, other[1], faster]


def _at(declared: Optimizer, factor: float) -> Optimizer:
    return declared.model_copy(update={"lr": float(f"{declared.lr * factor:.6g}")})


def optimizer_of(arm: TrialArm) -> Optimizer:
    """Make the optimizer of a trial's arm."""
    if arm.optimizer == "sgd":
        return Sgd(type="sgd", lr=arm.lr, momentum=arm.momentum or 0.0)
    return Adam(type="adam", lr=arm.lr)


def _diverged(trial: Trial) -> bool:
    return any(arm.declared and arm.outcome == "diverges" for arm in trial.arms)


def _pairs(general: Sequence[Plan]) -> Iterator[tuple[Plan, Plan]]:
    """Yield pairs of general remedies that do not contain each other's actions."""
    for index, first in enumerate(general):
        for second in general[index + 1 :]:
            names = {step.action.name for step in first}
            if not names & {step.action.name for step in second}:
                yield first, second


def _together(several: Sequence[Plan]) -> Plan:
    """Join plans; a later initialisation replaces an earlier one, and the output is changed first.

    Modes that replace functions see each other's calls, so the output's comes first.
    """
    steps = {step.action.name: step for plan in several for step in plan}
    ordered = sorted(steps.values(), key=lambda step: not step.action.name.startswith("remove_output"))
    return tuple(ordered)
