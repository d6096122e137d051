"""Gradients that become infinite in float16 at the declared loss scale."""

from __future__ import annotations

import math

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.catalogue.numerics.low_precision_underflow import declared_low_precision
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the largest scaled gradient with float16's largest number."""
    section = evidence.precision
    if section is None or declared_low_precision(section) != "float16":
        return NotJudged("float16 was not declared as the intended precision")
    rows = [row for row in evidence.parameters if row.grad_abs_max is not None]
    if not rows:
        return NotJudged("no parameter has a finite gradient")
    scale = section.loss_scale or 1.0
    rows.sort(key=lambda row: -(row.grad_abs_max or 0.0))
    value = scale * (rows[0].grad_abs_max or 0.0)
    severity = thresholds.severity(value)
    if severity is None:
        return None
    over = [row for row in rows if thresholds.severity(scale * (row.grad_abs_max or 0.0)) is not None]
    fitting = 2.0 ** math.floor(math.log2(65504 / (rows[0].grad_abs_max or 1.0)) - 2)
    return RULE.finding(
        severity=severity,
        layers=[row.layer for row in over],
        parameters=[row.name for row in over],
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"At a loss scale of {number(scale)} the largest gradient of {quoted(rows[0].name)} is {number(value)}, "
            "above 65,504, the largest float16."
        ),
        remedy=Remedy(
            action="set_loss_scale",
            arguments={"loss_scale": fitting},
        ),
    )


RULE = Rule(
    id="low_precision_overflow",
    title="Gradients overflow in low precision",
    what="S·max|g|, the largest gradient element times the loss scale, against float16's largest number.",
    why=(
        "Above 65,504 a float16 is infinite. Dynamic loss scaling skips such steps; fixed scaling carries the infinity "
        "into the weights. Judged at the declared precision and scale."
    ),
    unit="scaled gradient",
    compares="above",
    reference="IEEE 754-2008 binary16; Micikevicius et al. 2018, section 3.2",
    check=check,
    if_it_learns="warn",
    fail=Level(65_504.0, "IEEE 754-2008: the largest finite binary16"),
)
