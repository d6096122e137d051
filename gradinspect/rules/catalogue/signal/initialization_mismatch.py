"""The measured backward gain is not what mean-field theory gives for these weights."""

from __future__ import annotations

import math
from statistics import stdev

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import TRAINED, Evidence, names
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number

FEWEST_LAYERS = 3  # with fewer layers, chance and a real difference cannot be distinguished
_LARGEST_LOG = 700.0  # exp of it is still finite
STANDARD_ERRORS = 2.0  # chosen: by chance about one net in forty crosses it, and it must leave the band as well


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the geometric mean of measured over predicted χ1 with the band, allowing for the layers' spread.

    A single layer of width n varies by about √(2/n) from draw to draw, so single layers are not judged. The theory is
    that of a chain: calls off the trunk, such as those of queries and keys, carry a small part of the signal that
    is not independent of the weights.
    """
    if evidence.is_trained:
        return NotJudged(TRAINED)
    rows = [row for row in evidence.trunk if row.predicted_chi1 and row.measured_chi1 and not _is_convolution(row)]
    if len(rows) < FEWEST_LAYERS:
        return NotJudged(
            f"theory predicts the gain of {counted(len(rows), 'layer')}; at least {FEWEST_LAYERS} are needed"
        )
    logs = [_log_quotient(row) for row in rows]
    mean = math.fsum(logs) / len(logs)
    if abs(mean) > _LARGEST_LOG:
        return NotJudged("a measured gain over its prediction, or its inverse, is larger than any number")
    margin = STANDARD_ERRORS * stdev(logs) / math.sqrt(len(logs))
    nearest = mean - math.copysign(min(margin, abs(mean)), mean)
    severity = thresholds.severity(math.exp(nearest))
    if severity is None:
        return None
    value = math.exp(mean)
    worst = sorted(rows, key=lambda row: -abs(_log_quotient(row)))
    return RULE.finding(
        severity=severity,
        layers=names(worst),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"The squared backward gain is {number(value)} of what theory gives for random weights of this size "
            f"(geometric mean over {len(rows)} layers; largest difference at `{worst[0].name}`)."
        ),
        remedy=Remedy(action="check_initialization", arguments={"compare": "Var(weight) with its initialiser's"}),
    )


def _log_quotient(row: LayerMeasurement) -> float:
    return math.log(row.measured_chi1 or 1.0) - math.log(row.predicted_chi1 or 1.0)


def _is_convolution(row: LayerMeasurement) -> bool:
    """Check for a convolution: its padding removes kernel taps at the borders, which the theory ignores."""
    return "conv" in row.kind.lower()


RULE = Rule(
    id="initialization_mismatch",
    title="Gains differ from what random weights give",
    what="measured χ1 / predicted χ1: the squared backward gain against σ_w²·E[φ′²] for the weights' own variance.",
    why=(
        "The prediction holds for independent random weights. A clear difference means that the weights are not that: "
        "trained, correlated, or drawn by an initialiser that does something else than its name says."
    ),
    unit="ratio of squared gains",
    compares="outside",
    reference="Poole et al. 2016; Schoenholz et al. 2017, eq. 10",
    check=check,
    warn=Level((0.8, 1.25), "chosen: the band of a balanced layer, a quarter up or down"),
)
