"""Gradients below an absolute number, the rule that users of SageMaker Debugger know. For information only."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Name the trained parameters with mean |g| under the floor."""
    rows = [row for row in evidence.parameters if row.status == "trained" and row.grad_abs_mean is not None]
    if not rows:
        return NotJudged("no parameter has a finite gradient")
    below = [row for row in rows if thresholds.severity(row.grad_abs_mean or 0.0) is not None]
    if not below:
        return None
    below.sort(key=lambda row: row.grad_abs_mean or 0.0)
    value = below[0].grad_abs_mean or 0.0
    severity = thresholds.severity(value) or "info"
    return RULE.finding(
        severity=severity,
        layers=[row.layer for row in below],
        parameters=[row.name for row in below],
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"{counted(len(below), 'parameter')} {'has' if len(below) == 1 else 'have'} a mean |gradient| under the "
            f"floor, the smallest {number(value)} at {quoted(below[0].name)}."
        ),
    )


RULE = Rule(
    id="absolute_gradient_floor",
    title="Gradients under an absolute floor",
    what="Mean |g| of each trained parameter.",
    why=(
        "Other tools call this vanishing. The number follows the scale of the loss, which a learning rate can make up "
        "for, so by itself it says little and changes no verdict; vanishing_signal asks the question properly."
    ),
    unit="gradient",
    compares="below",
    reference="Amazon SageMaker Debugger, VanishingGradient rule, threshold 1e-7",
    check=check,
    info=Level(1e-7, "Amazon SageMaker Debugger's default"),
)
