"""The batch is so small that its gradient is mostly noise."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the noise scale with the batch size."""
    noise = evidence.noise
    if noise is None or noise.noise_scale is None or not noise.batch_size:
        return NotJudged("the gradient noise was not measured")
    value = noise.noise_scale / noise.batch_size
    severity = thresholds.severity(value)
    if severity is None:
        return None
    noisy = sorted((row for row in evidence.parameters if row.noise_scale), key=lambda row: -(row.noise_scale or 0.0))
    return RULE.finding(
        severity=severity,
        parameters=[row.name for row in noisy[:16]],
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The noise scale is {number(noise.noise_scale)} samples, {number(value)} times the batch of "
            f"{counted(noise.batch_size, 'sample')}."
        ),
        remedy=Remedy(action="increase_batch_size", arguments={"samples": int(noise.noise_scale), "or": "lower lr"}),
    )


RULE = Rule(
    id="noise_dominated",
    title="Gradients are mostly noise",
    what="The gradient noise scale tr Σ / ‖G‖² over the batch size.",
    why=(
        "A step on this batch points mostly in a random direction. That is normal late in training and no fault of the "
        "network; a larger batch, or a smaller learning rate, uses the same samples better."
    ),
    unit="ratio",
    compares="above",
    reference="McCandlish et al. 2018, An empirical model of large-batch training",
    check=check,
    if_it_learns="warn",
    info=Level(10.0, "chosen: a decade beyond the batch size where noise and signal balance"),
)
