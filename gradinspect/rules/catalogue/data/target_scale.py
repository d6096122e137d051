"""Regression targets that are far from the unit scale of a fresh network's output."""

from __future__ import annotations

import math

from gradinspect.contracts.report.report import Finding
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.rules.standardising import standardise
from gradinspect.wording import number, quoted

COMPARING = frozenset({"mse", "smooth_l1", "huber", "difference"})  # losses of the difference from a target


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the size of all targets, or of the largest feature."""
    if not any(head.loss_function in COMPARING for head in evidence.setup.heads):
        return NotJudged("the loss does not compare the output with a value")
    targets = [each for each in evidence.setup.tensors if each.role == "target" and each.rms]
    if not targets:
        return NotJudged("there is no target other than 0")
    sizes = [(size, each) for each in targets for size in (each.rms, each.largest_rms) if size and math.isfinite(size)]
    value, worst = max(sizes, key=lambda pair: (pair[0] > 1, abs(math.log(pair[0]))))
    severity = thresholds.severity(value)
    if severity is None:
        return None
    feature = f" in feature {worst.largest_feature}" if worst.feature_axis is not None and value != worst.rms else ""
    return RULE.finding(
        severity=severity,
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The values of the {quoted(worst.name)} are about {number(value)} (rms){feature}, where a fresh network's "
            "output is about 1."
        ),
        remedy=standardise("standardise_targets", worst),
    )


RULE = Rule(
    id="target_scale",
    title="The targets are not scaled",
    what="rms of the targets of a loss that takes their difference from the output (zeros left out), in all and of the "
    "largest feature.",
    why=(
        "The gradient grows with the distance between output and target, and curvature with the square of the weights "
        "that have to bridge it. Targets in the thousands need either tiny learning rates or very many steps; "
        "standardise them, and undo that on the predictions."
    ),
    unit="per element",
    compares="outside",
    reference="LeCun, Bottou, Orr and Müller 1998, Efficient BackProp, section 4.5: choosing target values",
    check=check,
    if_it_learns="warn",
    warn=Level((0.05, 20.0), "chosen: a decade and a half from the unit scale of a fresh output"),
    fail=Level((1e-3, 1e3), "chosen: three decades from it"),
)
