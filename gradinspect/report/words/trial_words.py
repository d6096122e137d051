"""A learning trial in words: its answer, its runs and its plain checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.trial import CheckName, Trial, TrialArm
from gradinspect.report.words.figures import printable
from gradinspect.wording import counted, number, run_in_words

OUTVOTED_TITLE = "Rules that were outvoted by the trial"

_ANSWERS = {
    "learns": "The model learns its batch.",
    "slow": "The model learns only a part of its batch.",
    "does_not_learn": "The model does not learn its batch.",
    "diverges": "The loss diverges.",
    "other_rate": "The model learns its batch, but not at the declared rate.",
    "other_optimizer": "The model learns its batch with one kind of optimizer only.",
    "undetermined": "Whether the model learns its batch is not clear.",
}
_OUTCOMES = {
    "learns": "learns",
    "slow": "learns a part",
    "does_not_learn": "does not learn",
    "diverges": "diverges",
    "undetermined": "still fell at the end",
}
_CHECKS: dict[CheckName, str] = {
    "forward": "forward pass",
    "loss_finite": "finite loss",
    "backward": "backward pass",
    "second_backward": "a second step",
    "step_finite": "finite weights after it",
    "weights_moved": "every layer moved",
    "loss_falls": "the loss falls",
}


class ArmRow(NamedTuple):
    """One run in words, with its curve."""

    name: str
    outcome: str
    skill: str
    steps: str
    curve: Sequence[float | None]


def trial_answer(trial: Trial) -> str:
    """Write the answer, with the scale on which losses are read."""
    answer = _ANSWERS[trial.verdict]
    if trial.reason is not None:
        answer += f" ({printable(trial.reason)})"
    if trial.chance_loss is None:
        return answer
    floor = f", the smallest possible loss is {number(trial.floor_loss)}" if trial.floor_loss is not None else ""
    return f"{answer} The best constant output has a loss of {number(trial.chance_loss)}{floor}."


def arm_rows(trial: Trial) -> tuple[ArmRow, ...]:
    """List the runs: name, outcome, the share of what can be learned, steps and curve."""
    return tuple(
        ArmRow(
            name=f"{printable(run_in_words(arm))}{' (declared)' if arm.declared else ''}",
            outcome=_OUTCOMES[arm.outcome],
            skill=f"{100 * max(arm.skill, -9.99):.0f} %" if arm.skill is not None else "–",
            steps=f"{arm.steps}",
            curve=remaining(trial, arm),
        )
        for arm in trial.arms
    )


def check_words(trial: Trial) -> str:
    """Write the plain checks on a line: forward pass ✓, finite loss ✓, every layer moved ✗ (3 of 8 parameters)."""
    words = []
    for check in trial.checks:
        detail = f" ({printable(check.detail)})" if check.detail and not check.passed else ""
        words.append(f"{_CHECKS[check.name]} {'✓' if check.passed else '✗'}{detail}")
    return ", ".join(words)


def unmoved_words(trial: Trial) -> str | None:
    """Name the layers that hardly moved; None if all did."""
    if not trial.unmoved_layers:
        return None
    names = ", ".join(printable(name) for name in trial.unmoved_layers[:8])
    more = len(trial.unmoved_layers) - 8
    return (
        f"{counted(len(trial.unmoved_layers), 'layer')} hardly moved: {names}{f' and {more} more' if more > 0 else ''}."
    )


def remaining(trial: Trial, arm: TrialArm) -> tuple[float | None, ...]:
    """Return a run's losses as what is left to learn: 1 at chance, 0 at a perfect loss; None where not finite."""
    chance = trial.chance_loss if trial.chance_loss is not None else trial.initial_loss
    if chance is None:
        return ()
    floor = trial.floor_loss if trial.floor_loss is not None else chance - abs(chance)
    height = chance - floor
    if not height > 0:
        return ()
    return tuple((loss - floor) / height if loss is not None else None for loss in arm.curve)


def split_outvoted(report: Report) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, RuleOutcome], ...]]:
    """Separate the findings that stand from those that the trial outvoted, each with its rule."""
    outvoted = {outcome.rule: outcome for outcome in report.rules if outcome.outcome == "outvoted"}
    standing = tuple(finding for finding in report.findings if finding.rule not in outvoted)
    return standing, tuple((f, outvoted[f.rule]) for f in report.findings if f.rule in outvoted)
