"""The initial loss is far above that of uniform predictions."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the loss with its value at uniform predictions."""
    loss, expected = evidence.summary.loss, evidence.summary.expected_initial_loss
    if loss is None:
        return NotJudged("the loss is not finite")
    if not expected:
        return NotJudged("this loss has no value that a model without knowledge must have")
    value = loss / expected - 1
    severity = thresholds.severity(value)
    if severity is None:
        return None
    last = evidence.layers[-1].name if evidence.layers else None
    own = [row for row in evidence.parameters if row.layer == last]
    if own and all(row.status == "frozen" for row in own):
        return NotJudged("the output layer is frozen, so it is no initialisation")
    return RULE.finding(
        severity=severity,
        layers=(last,) if last is not None else (),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The loss is {number(loss)} where equal probabilities for all classes give {number(expected)}: the "
            f"output layer{f' `{last}`' if last is not None else ''} is confident before it has learned anything."
        ),
        remedy=Remedy(
            action="scale_weights",
            arguments={"layers": [last] if last is not None else [], "factor": 0.1},
        ),
    )


RULE = Rule(
    id="initial_loss",
    title="The initial loss is too high",
    what="loss / expected − 1, where equal probabilities for K classes give an expected cross-entropy of ln K.",
    why=(
        "The first steps are spent on squeezing arbitrary large outputs back to nothing instead of on learning. An "
        "output layer that starts small, or a check that targets and classes match, mends it."
    ),
    unit="relative excess",
    compares="above",
    reference="Karpathy 2019, A recipe for training neural networks, verify loss @ init",
    check=check,
    if_it_learns="warn",
    warn=Level(1.0, "chosen: twice the loss of a uniform guess"),
)
