"""Some layers' weights get far larger gradients, for their size, than others'."""

from __future__ import annotations

import math

from gradinspect.contracts.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, Limits, NotJudged, Rule
from gradinspect.rules.wording import fold, number, quoted


def check(evidence: Evidence, limits: Limits) -> Finding | NotJudged | None:
    """Compare ‖g‖/‖w‖ between the layers' weights."""
    ratios = layer_ratios(evidence)
    if len(ratios) < 2:
        return NotJudged(f"{len(ratios)} layers have a trained weight with a gradient; at least 2 are needed")
    largest, smallest = max(ratios, key=lambda name: ratios[name]), min(ratios, key=lambda name: ratios[name])
    value = ratios[largest] / ratios[smallest]
    severity = limits.severity(value)
    if severity is None:
        return None
    return Finding(
        rule=RULE.id, severity=severity, layers=(smallest, largest), value=value,
        threshold=limits.threshold(severity, value),
        message=(
            f"Relative to its weights, {quoted(largest)} gets a gradient {fold(value)} larger than {quoted(smallest)} "
            f"({number(ratios[largest])} against {number(ratios[smallest])})."
        ).replace("-fold larger", " times larger"),
        explanation=RULE.why,
        remedy=Remedy(action="use_lr_scales", arguments={"lr_scales": {"verify": True}, "alternative": "adam"}),
    )  # fmt: skip


def layer_ratios(evidence: Evidence) -> dict[str, float]:
    """Layer → ‖g‖/‖w‖ over its weights; layers without a gradient to speak of are another rule's."""
    gradients: dict[str, float] = {}
    weights: dict[str, float] = {}
    for row in evidence.weights:
        if row.grad_norm and row.weight_norm and not evidence.is_embedding(row):
            gradients[row.layer] = gradients.get(row.layer, 0.0) + row.grad_norm**2
            weights[row.layer] = weights.get(row.layer, 0.0) + row.weight_norm**2
    return {name: math.sqrt(gradients[name] / weights[name]) for name in gradients}


RULE = Rule(
    id="uneven_gradients",
    title="Layers learn at very different speeds",
    what="‖gradient‖ / ‖weight‖ of each layer's weights: the largest over the smallest.",
    why=(
        "With plain SGD one learning rate moves every layer in proportion to this ratio. When the fastest layer sets "
        "the limit, the slowest hardly moves."
    ),
    unit="ratio",
    reference="You, Gitman and Ginsburg 2017 (LARS), section 4",
    check=check,
    warn=Level(100.0, "chosen: two decades between layers leave no common learning rate for SGD"),
    fail=Level(1000.0, "chosen: three decades"),
)
