"""Batch normalisation without skip connections makes the backward signal grow with every layer."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence, is_batch_norm_kind, names
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, quoted

FEWEST_LAYERS = 3  # one growth factor from two layers would be a single draw


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the geometric mean of the growth between the first and the last batch norm."""
    rows = [row for row in evidence.trunk if is_batch_norm_kind(row.kind)]
    rows = [row for row in rows if _signal(row) > 0]
    if len(rows) < FEWEST_LAYERS:
        count = f"{counted(len(rows), 'batch normalisation')} {'carries' if len(rows) == 1 else 'carry'}"
        return NotJudged(f"{count} a signal; at least {FEWEST_LAYERS} are needed")
    value = (_signal(rows[0]) / _signal(rows[-1])) ** (1 / (len(rows) - 1))
    severity = thresholds.severity(value)
    if severity is None:
        return None
    return RULE.finding(
        severity=severity,
        layers=names(rows),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The backward signal grows by {number(value)} with each of {len(rows)} batch normalisations, "
            f"from {quoted(rows[-1].name)} back to {quoted(rows[0].name)}."
        ),
        remedy=Remedy(action="add_residual", arguments={"around": "every one or two normalised layers"}),
    )


def _signal(row: LayerMeasurement) -> float:
    return row.signal.norm or 0.0 if row.signal is not None else 0.0


RULE = Rule(
    id="normalization_growth",
    title="Normalisation makes gradients grow with depth",
    what="The growth of the backward signal per batch normalisation, geometric mean.",
    why=(
        "At initialisation, batch normalisation over a ReLU layer multiplies the gradient by √(π/(π−1)) = 1.21 on "
        "average. Over 50 layers without skip connections that is a factor of ten thousand."
    ),
    unit="ratio of norms per layer",
    compares="above",
    reference="Yang et al. 2019, A mean field theory of batch normalization",
    check=check,
    info=Level(1.2, "Yang et al. 2019: √(π/(π−1)) = 1.21 for ReLU and large batches"),
)
