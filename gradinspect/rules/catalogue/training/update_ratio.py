"""The declared optimizer's first step is far too large or too small for the weights."""

from __future__ import annotations

from statistics import median

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.rows import ParameterMeasurement
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, quoted

USUAL = 1e-3  # Karpathy 2022, "Building makemore, part 3": updates of about a thousandth of the weights


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Judge the largest ratio from above and the middle one from below.

    One layer with too large a step is enough to ruin a run. One layer with too small a step is the subject of
    `uneven_gradients`; the learning rate is too small only when the median layer's step is.
    """
    rows = [row for row in evidence.weights if row.update_to_weight is not None and not evidence.is_embedding(row)]
    if not rows:
        reason = "no weight has an update" if evidence.optimizer is not None else "no optimizer was declared"
        return NotJudged(reason)
    largest = max(rows, key=_ratio)
    middle = median(_ratio(row) for row in rows)
    severity = thresholds.severity(_ratio(largest))
    if severity is not None and _ratio(largest) > thresholds.crossed(severity, _ratio(largest)):
        row, value, which = largest, _ratio(largest), "largest"
    else:
        severity, value, which = thresholds.severity(middle), middle, "median"
        row = min(rows, key=lambda candidate: abs(_ratio(candidate) - middle))
    if severity is None:
        return None
    size = "large" if value > USUAL else "small"
    return RULE.finding(
        severity=severity,
        layers=(row.layer,),
        parameters=(row.name,),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The first step is too {size}: it changes {quoted(row.name)} by {number(value)} of its norm "
            f"(the {which} of {counted(len(rows), 'weight')})."
        ),
    )


def _ratio(row: ParameterMeasurement) -> float:
    return row.update_to_weight or 0.0


RULE = Rule(
    id="update_ratio",
    title="The learning rate does not fit the weights",
    what="‖Δθ‖ / ‖θ‖ of the declared optimizer's first step, for weights with two or more axes.",
    why=(
        "A step of a thousandth of the weights is about right. A step as large as the weights wipes them out; one a "
        "million times smaller trains nothing. This follows the learning rate and, for SGD, the scale of the loss."
    ),
    unit="ratio of norms",
    compares="outside",
    reference="Bottou 2012, Stochastic gradient descent tricks; You, Gitman and Ginsburg 2017; Karpathy 2022",
    check=check,
    if_it_learns="outvoted_as_declared",
    warn=Level((1e-4, 1e-1), "chosen: a decade under and two over the usual 1e-3"),
    fail=Level(
        (1e-8, 10.0),
        "Amazon SageMaker Debugger, WeightUpdateRatio: float32 rounds the step away, or one step forgets the start",
    ),
)
