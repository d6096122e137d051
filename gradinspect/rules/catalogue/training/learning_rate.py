"""The model learns, but not at the declared rate, or with one of SGD and Adam alone."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.trial import Trial, TrialArm
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number, run_in_words

NEVER = 1e12  # stands for a rate at which no number of steps suffices


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Judge the steps that the declared rate needs, where another rate or optimizer was seen to learn."""
    trial = evidence.trial
    if trial is None or trial.status == "undetermined" or trial.verdict == "undetermined":
        reason = trial.reason if trial is not None else None
        return NotJudged(reason or "no learning trial was made")
    if trial.verdict not in ("other_rate", "other_optimizer"):
        return None
    learned = next(arm for arm in trial.arms if arm.outcome == "learns")
    declared = next((arm for arm in trial.arms if arm.declared), None)
    value = trial.steps_at_declared_rate or NEVER
    severity = thresholds.severity(value)
    if severity is None:
        return None
    if declared is None or declared.outcome == "slow":
        severity = "warn"
    return RULE.finding(
        severity=severity,
        value=value,
        threshold=thresholds.crossed(severity, value) if severity in thresholds.levels else 0.0,
        message=_message(trial, declared, learned),
        remedy=Remedy(action="set_learning_rate", arguments={"optimizer": learned.optimizer, "lr": learned.lr}),
    )


def _message(trial: Trial, declared: TrialArm | None, learned: TrialArm) -> str:
    good = f"{run_in_words(learned)} learns it in {learned.steps} steps"
    if declared is None:
        failing = "SGD" if learned.optimizer != "sgd" else "Adam"
        return f"{failing} does not train it at any of the usual rates; {good}."
    did = {
        "diverges": "diverges",
        "slow": "learns slowly",
        "undetermined": "hardly lowers the loss",
    }.get(declared.outcome, "stays where it began")
    needed = trial.steps_at_declared_rate
    price = f", and would need about {number(needed)} steps" if needed is not None else ""
    return f"As declared, {run_in_words(declared)} {did}{price}; {good}."


RULE = Rule(
    id="learning_rate",
    title="It learns, but not as declared",
    what="The training steps that the declared learning rate needs on the inspected batch, from the steps that a "
    "larger rate took; 1e12 where it diverges or stays at chance.",
    why=(
        "The network is able to learn: with another rate, or with another optimizer, the same weights learn the same "
        "batch. What was declared would waste the run."
    ),
    unit="steps",
    compares="above",
    reference="Bottou, Curtis and Nocedal 2018, section 4: to first order the way is the rate times the steps",
    check=check,
    if_it_learns="kept",
    warn=Level(1e4, "chosen: networks of this size are trained for thousands of steps"),
    fail=Level(1e6, "chosen: a hundred times as many"),
)
