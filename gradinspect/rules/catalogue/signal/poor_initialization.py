"""The pre-activations' variance differs widely between layers: the initialisation does not keep the scale."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import TRAINED, Evidence, is_norm_kind, names
from gradinspect.rules.remedies import initialize
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, fold, number, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the variances of the nonlinearities' inputs."""
    if evidence.is_trained:
        return NotJudged(TRAINED)
    variances = {row.depth: (row, variance) for row in evidence.trunk if (variance := _variance(row)) is not None}
    if len(variances) < 2:
        count = f"{counted(len(variances), 'layer')} {'feeds' if len(variances) == 1 else 'feed'}"
        return NotJudged(f"{count} a nonlinearity; at least 2 are needed to compare variances")
    largest, smallest = max(variances.values(), key=_second), min(variances.values(), key=_second)
    value = largest[1] / smallest[1]
    severity = thresholds.severity(value)
    if severity is None:
        return None
    shrinks = largest[0].depth < smallest[0].depth
    return RULE.finding(
        severity=severity,
        layers=names([smallest[0], largest[0]]),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The pre-activations' variance {'shrinks' if shrinks else 'grows'} {fold(value)} with depth: "
            f"{number(largest[1])} at {quoted(largest[0].name)}, {number(smallest[1])} at {quoted(smallest[0].name)}."
        ),
        remedy=initialize(tuple(row for row, _ in variances.values()), "weight_scale"),
    )


def _variance(row: LayerMeasurement) -> float | None:
    """Return the variance of a row's pre-activation; None where no nonlinearity follows and its scale is irrelevant."""
    if row.nonlinearity is None or row.preactivation is None or is_norm_kind(row.kind):
        return None
    return row.preactivation.std**2 if row.preactivation.std else None


def _second(entry: tuple[LayerMeasurement, float]) -> float:
    return entry[1]


RULE = Rule(
    id="poor_initialization",
    title="The initialisation does not keep the scale",
    what="The variance of what enters each nonlinearity: the largest over the smallest.",
    why=(
        "Initialisations are designed so that every layer sees values of about the same size. Where the size falls "
        "or rises from layer to layer, activations fade into noise or saturate, and gradients follow."
    ),
    unit="ratio of variances",
    compares="above",
    reference="Glorot and Bengio 2010; He et al. 2015, section 2.2; Mishkin and Matas 2016",
    check=check,
    warn=Level(
        1e3,
        "chosen: a decade and a half in amplitude; torch's defaults give 10 to 300 on ReLU nets of 3 to 6 layers that "
        "train well, and their biases keep it under the layers' width",
    ),
    fail=Level(1e4, "chosen: two decades in amplitude, where biases or saturation take over"),
)
