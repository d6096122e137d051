"""The learning rate is beyond what the loss's curvature allows."""

from __future__ import annotations

from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare lr·λ/(1 + momentum) with 2."""
    if evidence.curvature is None or evidence.curvature.top_eigenvalue is None:
        return NotJudged("the curvature was not measured")
    if evidence.optimizer is None:
        return NotJudged("no optimizer was declared")
    if not isinstance(evidence.optimizer, Sgd):
        return NotJudged("the bound of 2/λ holds for SGD; Adam scales each direction by itself")
    eigenvalue, optimizer = evidence.curvature.top_eigenvalue, evidence.optimizer
    value = optimizer.lr * eigenvalue / (1 + optimizer.momentum)
    severity = thresholds.severity(value)
    if severity is None:
        return None
    largest = float(f"{(1 + optimizer.momentum) / eigenvalue:.2g}")
    worst = max(evidence.curvature.layers, key=lambda row: row.top_eigenvalue or 0.0, default=None)
    return RULE.finding(
        severity=severity,
        layers=(worst.layer,) if worst is not None else (),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The learning rate {number(optimizer.lr)} is {number(value / 2)} times the largest stable one at this "
            f"point: the loss's top curvature is {number(eigenvalue)}."
        ),
        remedy=Remedy(action="warm_up", arguments={"lr": largest}),
    )


RULE = Rule(
    id="sharpness",
    title="The learning rate is above the stable one",
    what="lr·λ / (1 + momentum), with λ the top eigenvalue of the loss's Hessian.",
    why=(
        "Along the direction of strongest curvature, steps with lr above 2/λ overshoot further each time. Training "
        "may still settle in a flatter region, but the first steps raise the loss."
    ),
    unit="dimensionless",
    compares="above",
    reference="LeCun et al. 1998, Efficient BackProp, section 4; Polyak 1964, for momentum; Cohen et al. 2021",
    check=check,
    if_it_learns="warn",
    warn=Level(2.0, "the stability bound of gradient descent on a quadratic"),
)
