"""One term of the loss drowns another, or two terms pull against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from gradinspect.contracts.report.losses import LossTerm
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import listed, number

CONFLICT = -0.5  # chosen: beyond it, half of the weaker term's gradient is cancelled by the others
MOST_LAYERS = 16  # in a finding


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the terms' gradients in the layers that two of them train together."""
    measured = [term for term in evidence.losses if term.grad_norm is not None]
    if len(measured) < 2:
        return NotJudged("the loss is not a sum of named terms with gradients")
    return _imbalance(measured, thresholds) or _conflict(measured, thresholds)


def _imbalance(terms: list[LossTerm], thresholds: Thresholds) -> Finding | None:
    pairs = [pair for one, other in combinations(terms, 2) if (pair := _ratio(one, other)) is not None]
    ratio, large, small, layers = max(pairs, key=lambda pair: pair[0], default=(1.0, terms[0], terms[0], ()))
    severity = thresholds.severity(ratio)
    if severity is None:
        return None
    where = f"the {len(layers)} layers" if len(layers) > 1 else "the layer"
    return RULE.finding(
        severity=severity,
        layers=layers[:MOST_LAYERS],
        value=ratio,
        threshold=thresholds.crossed(severity, ratio),
        message=(
            f"The loss term `{large.name}` has a gradient {number(ratio)} times larger than `{small.name}` in {where} "
            "that both train: the steps follow it, and the other is barely learned."
        ),
        remedy=Remedy(action="weigh_loss_terms", arguments={"weights": _weights(terms)}),
    )


def _conflict(terms: list[LossTerm], thresholds: Thresholds) -> Finding | None:
    worst = min(terms, key=lambda term: 1.0 if term.shared_cosine is None else term.shared_cosine)
    if worst.shared_cosine is None or worst.shared_cosine >= CONFLICT or "warn" not in thresholds.levels:
        return None
    fought = sorted((row for row in worst.layers if row.cosine is not None), key=lambda row: row.cosine or 0.0)
    layers = [row.layer for row in fought if row.cosine is not None and row.cosine < CONFLICT][:MOST_LAYERS]
    others = [f"`{term.name}`" for term in terms if term is not worst]
    where = f", most in {listed(layers)}" if layers else ""
    return RULE.finding(
        severity="warn",
        layers=layers,
        value=worst.shared_cosine,
        threshold=CONFLICT,
        message=(
            f"The loss term `{worst.name}` pulls against {', '.join(others[:3])}: in the layers that both train, "
            f"the cosine of their gradients is {number(worst.shared_cosine)}{where}."
        ),
        remedy=Remedy(action="separate_loss_terms", arguments={"terms": [term.name for term in terms]}),
    )


def _ratio(one: LossTerm, other: LossTerm) -> tuple[float, LossTerm, LossTerm, tuple[str, ...]] | None:
    """Return how much larger one gradient is, larger and smaller term, and the layers that both reach."""
    mine, theirs = _norms(one), _norms(other)
    shared = tuple(layer for layer in mine if layer in theirs)
    a, b = math.hypot(*(mine[layer] for layer in shared)), math.hypot(*(theirs[layer] for layer in shared))
    if min(a, b) == 0:
        return None
    return (a / b, one, other, shared) if a >= b else (b / a, other, one, shared)


def _norms(term: LossTerm) -> Mapping[str, float]:
    return {row.layer: row.grad_norm for row in term.layers if row.grad_norm is not None}


def _weights(terms: list[LossTerm]) -> dict[str, float]:
    """Return factors that give every term a gradient of the same size; their geometric mean is 1."""
    norms = {term.name: term.grad_norm for term in terms if term.grad_norm}
    mean = math.exp(math.fsum(map(math.log, norms.values())) / len(norms))
    return {name: float(f"{mean / norm:.3g}") for name, norm in norms.items()}


RULE = Rule(
    id="loss_balance",
    title="The terms of the loss are out of balance",
    what="The largest ratio of two terms' gradient norms over the layers that both train; also reported is a cosine "
    f"under {CONFLICT} between one term's gradient and the sum of the others.",
    why=(
        "The optimizer follows the sum. A term whose gradient is tens of times smaller is hardly learned, however "
        "large its value is, and terms that oppose each other cancel; weights for the terms balance them."
    ),
    unit="ratio",
    compares="above",
    reference="Wang, Teng and Perdikaris 2021, on gradient pathologies in physics-informed networks; Yu et al. 2020, "
    "Gradient surgery for multi-task learning",
    check=check,
    if_it_learns="warn",
    warn=Level(30.0, "chosen: the smaller term moves the sum's direction by less than 2 degrees"),
)
