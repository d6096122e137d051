"""Depth makes the samples' representations parallel: the layer's output is almost the same for every input."""

from __future__ import annotations

import math
from functools import lru_cache

from gradinspect.contracts.nonlinearities import names_of
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence, functions_of, names
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number, percent, quoted

# A sigmoid's outputs all have mean one half, so their cosine is near 1 in any net.
CENTRED = names_of("is_zero_at_zero")
RECTIFIERS = names_of("is_rectifier")


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Look at the last hidden layer whose similarity means something."""
    rows = [row for row in evidence.layers if row.nonlinearity in CENTRED and row.sample_similarity is not None]
    if not rows:
        return NotJudged("no layer with a centred nonlinearity has a similarity between samples")
    firing = [row for row in rows if thresholds.severity(row.sample_similarity or 0.0) is not None]
    if not firing:
        return None
    worst = max(firing, key=lambda row: row.sample_similarity or 0.0)
    value = worst.sample_similarity or 0.0
    severity = thresholds.severity(value) or "info"
    dead = worst.dead_unit_fraction
    off = (
        f" ({percent(dead)} of its units are off for the whole batch, as parallel samples make likely)" if dead else ""
    )
    return RULE.finding(
        severity=severity,
        layers=names(firing),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=f"At {quoted(worst.name)} the samples' activations have a mean cosine of {number(value)}{off}.",
        remedy=Remedy(action="add_normalization", arguments={"kind": "BatchNorm", "or": "residual connections"}),
    )


def expected_dead_fraction(row: LayerMeasurement) -> float | None:
    """Share of ReLU units that are off for a whole batch of random weights, given how parallel the samples are.

    Source: Cho and Saul 2009, eq. 6 (arc-cosine kernel of order 1) to find the pre-activations' correlation c from the
    activations' cosine; then P(all N off) = E[Φ(−u·√(c/(1−c)))^N] for equally correlated Gaussians, u ~ N(0, 1).
    """
    if row.sample_similarity is None or not functions_of(row) & RECTIFIERS or not row.output_shape:
        return None
    return _all_off(round(_correlation(max(0.0, min(row.sample_similarity, 1.0))), 3), row.output_shape[0])


def _correlation(cosine: float) -> float:
    """Invert the arc-cosine kernel by bisection; 0 below its value at c = 0."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        kernel = (math.sqrt(1 - middle**2) + middle * (math.pi - math.acos(middle))) / math.pi
        low, high = (middle, high) if kernel < cosine else (low, middle)
    return low


@lru_cache(maxsize=4096)
def _all_off(correlation: float, samples: int) -> float:
    if correlation >= 1.0:
        return 0.5
    slope = math.sqrt(correlation / (1 - correlation))
    nodes = 401  # trapezoid rule over ±8 standard deviations; exact to 1e-3 at this spacing up to N = 10⁶
    total = 0.0
    for index in range(nodes):
        u = -8 + 16 * index / (nodes - 1)
        off = 0.5 * math.erfc(u * slope / math.sqrt(2))
        total += math.exp(-u * u / 2) / math.sqrt(2 * math.pi) * off**samples
    return total * 16 / (nodes - 1)


RULE = Rule(
    id="correlation_collapse",
    title="Samples become parallel with depth",
    what="The mean cosine similarity between the samples' activations, per layer.",
    why=(
        "When every input looks the same to the last layers, they cannot tell inputs apart, whatever the size of the "
        "gradients. Units that are off for the whole batch are then a consequence, not dying units."
    ),
    unit="cosine",
    compares="above",
    largest=1.0,
    reference="Poole et al. 2016; Schoenholz et al. 2017; Daneshmand et al. 2020, for batch normalisation as a remedy",
    check=check,
    info=Level(0.95, "chosen: a He-initialised ReLU net reaches it at about 15 layers from unrelated samples"),
)
