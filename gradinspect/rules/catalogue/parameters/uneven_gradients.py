"""Some layers' weights get far larger gradients, for their size, than others'."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from statistics import median

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence, is_batch_norm_kind
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.rules.signal import layer_signals
from gradinspect.wording import counted, fold, number, quoted

SMALL_ON_PURPOSE = 0.1  # chosen: initialisers of one network differ by less than a factor of ten in gain
SIDE_BRANCH = 10.0  # chosen: neighbours along a chain differ by less; side branches by design differ by more


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare ‖g‖/‖w‖ between the layers' weights."""
    ratios = layer_ratios(evidence)
    if len(ratios) < 2:
        count = f"{counted(len(ratios), 'layer')} {'has' if len(ratios) == 1 else 'have'}"
        return NotJudged(f"{count} a trained weight with a gradient; at least 2 are needed")
    largest, smallest = max(ratios, key=lambda name: ratios[name]), min(ratios, key=lambda name: ratios[name])
    value = ratios[largest] / ratios[smallest]
    severity = thresholds.severity(value)
    if severity is None:
        return None
    return RULE.finding(
        severity=severity if evidence.optimizer is not None and not evidence.optimizer.is_adaptive else "info",
        layers=(smallest, largest),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"Relative to its weights, {quoted(largest)} gets a gradient {fold(value)} larger than {quoted(smallest)} "
            f"({number(ratios[largest])} against {number(ratios[smallest])})."
        ).replace("-fold larger", " times larger"),
        explanation=_why(evidence),
        remedy=_remedy(evidence),
    )


def layer_ratios(evidence: Evidence) -> dict[str, float]:
    """Layer → ‖g‖/‖w‖ over its weights.

    Left out are tables, of which one batch touches a few rows; weights in front of a normalisation, whose size changes
    nothing but their own gradient, so that they find their own speed (van Laarhoven 2017); weights that meet no data;
    layers behind a small gate, and weights drawn much smaller than the others on purpose; and side branches: layers
    off the longest path, or with far less signal than layers on both sides of them. Attention's queries and keys at
    initialisation and branches behind a small layer scale are like that on purpose, and grow in the first steps.
    """
    aside = _side_branches(evidence) | _normalised(evidence) | _off_trunk(evidence) | _small_on_purpose(evidence)
    gradients: dict[str, float] = {}
    weights: dict[str, float] = {}
    for row in evidence.weights:
        if row.grad_norm and row.weight_norm and row.layer not in aside and not evidence.is_embedding(row):
            gradients[row.layer] = math.hypot(gradients.get(row.layer, 0.0), row.grad_norm)
            weights[row.layer] = math.hypot(weights.get(row.layer, 0.0), row.weight_norm)
    return {name: gradients[name] / weights[name] for name in gradients}


def _off_trunk(evidence: Evidence) -> set[str]:
    """Return the layers that meet no data, are off the longest path, or behind a small gate."""
    if not evidence.has_graph:
        return set()
    on_trunk = {row.name for row in evidence.trunk if row.gate_factor is None}
    return {row.layer for row in evidence.weights if row.layer not in on_trunk}


def _small_on_purpose(evidence: Evidence) -> set[str]:
    """Return the layers whose weights multiply by far less than the median layer's, such as a head drawn near zero."""
    sizes = {row.layer: (row.weight_rms or 0.0) * math.sqrt(row.numel / row.shape[0]) for row in evidence.weights}
    usual = median(sizes.values()) if sizes else 0.0
    return {layer for layer, size in sizes.items() if size < SMALL_ON_PURPOSE * usual}


def _normalised(evidence: Evidence) -> set[str]:
    if evidence.has_graph:
        return {row.name for row in evidence.layers if row.normalised_scale is not None}
    return {row.name for row, after in pairwise(evidence.layers) if is_batch_norm_kind(after.kind)}


def _side_branches(evidence: Evidence) -> set[str]:
    signals = layer_signals(evidence)
    if isinstance(signals, NotJudged):
        return set()
    gains = [signal.gain for signal in signals]
    before = [0.0, *accumulate(gains, max)][:-1]
    after = [0.0, *accumulate(reversed(gains), max)][:-1][::-1]
    return {
        signal.name
        for signal, earlier, later in zip(signals, before, after, strict=True)
        if min(earlier, later) > SIDE_BRANCH * signal.gain
    }


def _remedy(evidence: Evidence) -> Remedy | None:
    """Point to the scales that the report suggests; to Adam where scales were computed and are not recommended."""
    if evidence.scales_verdict is None:
        return Remedy(action="use_lr_scales", arguments={"lr_scales": {"verify": True}, "alternative": "adam"})
    if evidence.scales_verdict == "use":
        return Remedy(action="apply_lr_scales", arguments={"alternative": "adam"})
    is_adaptive = evidence.optimizer is not None and evidence.optimizer.is_adaptive
    return None if is_adaptive else Remedy(action="use_adam")


def _why(evidence: Evidence) -> str:
    if evidence.optimizer is not None and evidence.optimizer.is_adaptive:
        return (
            f"{RULE.why} The declared {evidence.optimizer.type} divides each gradient by its size, so it matters less."
        )
    if evidence.optimizer is None:
        return f"{RULE.why} No optimizer is declared; one that divides gradients by their size, such as Adam, evens it."
    return RULE.why


RULE = Rule(
    id="uneven_gradients",
    title="Layers learn at very different speeds",
    what="‖gradient‖ / ‖weight‖ of each layer's weights: the largest over the smallest.",
    why=(
        "With plain SGD one learning rate moves every layer in proportion to this ratio. When the fastest layer sets "
        "the limit, the slowest hardly moves."
    ),
    unit="ratio",
    compares="above",
    reference="You, Gitman and Ginsburg 2017 (LARS), section 4",
    check=check,
    warn=Level(100.0, "chosen: two decades between layers leave no common learning rate for SGD"),
    fail=Level(1000.0, "chosen: three decades"),
)
