"""No training run of the model gets away from what a constant output reaches."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.trial import Trial, TrialArm
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, quoted, run_in_words

MOST_LAYERS = 3  # named in the message


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Judge the best run's skill, where no run learned."""
    trial = evidence.trial
    if trial is None:
        return NotJudged("no learning trial was made")
    failed = next((row for row in trial.checks if row.name == "second_backward" and not row.passed), None)
    if failed is not None:
        return RULE.finding(
            severity="fail",
            value=0.0,
            message=f"It cannot be trained: {failed.detail}.",
            explanation=(
                "The first step works and a later one fails. Something of the step before is kept: a hidden state or "
                "a loss that still holds its graph. Detach what is carried from one step to the next."
            ),
        )
    if trial.status == "undetermined" or trial.verdict == "undetermined":
        return NotJudged(trial.reason or "the learning trial showed nothing")
    if trial.verdict not in ("slow", "does_not_learn", "diverges"):
        return None
    best = max(trial.arms, key=_skill, default=None)
    value = max(_skill(best), 0.0) if best is not None else 0.0
    severity = thresholds.severity(value)
    if severity is None or best is None:
        return None
    return RULE.finding(
        severity=severity,
        layers=trial.unmoved_layers,
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=_message(trial, best, value),
    )


def _message(trial: Trial, best: TrialArm, skill: float) -> str:
    runs = counted(len(trial.arms), "run")
    if trial.verdict == "diverges":
        return f"It does not learn: the loss diverges in all of {runs}, {run_in_words(best)} included."
    way = f"{number(100 * skill)} % of the way from the best constant output to a perfect one"
    learns = "It hardly learns" if trial.verdict == "slow" else "It does not learn"
    sentence = f"{learns}: the best of {runs} on its own batch, {run_in_words(best)}, comes {way}."
    if not trial.unmoved_layers:
        return sentence
    named = ", ".join(quoted(name) for name in trial.unmoved_layers[:MOST_LAYERS])
    more = len(trial.unmoved_layers) - MOST_LAYERS
    return f"{sentence} Hardly moved: {named}{f' and {more} more' if more > 0 else ''}."


def _skill(arm: TrialArm | None) -> float:
    return arm.skill if arm is not None and arm.skill is not None and arm.outcome != "diverges" else -1.0


RULE = Rule(
    id="does_not_learn",
    title="The network does not learn",
    what="(chance − loss) / (chance − floor) at the end of the best training run on the inspected batch, where no run "
    "comes half of the way. Chance is the loss of the best constant output.",
    why=(
        "A network that cannot even learn one batch by heart, with any of the usual optimizers and rates, will not "
        "train. What it reaches is what an output that ignores the input reaches."
    ),
    unit="share of what can be learned",
    compares="below",
    reference="Karpathy 2019, A recipe for training neural networks: overfit a single batch",
    check=check,
    if_it_learns="kept",
    warn=Level(
        0.3, "a linear layer on random labels, the weakest healthy network of benchmarks/learning/trial_study, has 0.4"
    ),
    fail=Level(0.1, "sick networks of benchmarks/learning/trial_study stay under 0.09, healthy ones reach 0.5"),
    largest=1.0,
)
