"""Sigmoid-like functions in their flat parts: the slope is nearly zero, and so is the gradient behind them."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence, names
from gradinspect.rules.faults import fault_of_layers
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, percent, quoted

_OF_LOGITS = {
    "sigmoid": "logsigmoid and binary_cross_entropy_with_logits", "softmax": "log_softmax and cross_entropy",
}  # fmt: skip


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the layer with the largest share of saturated elements."""
    shares = [(row.saturated_fraction, row) for row in evidence.layers if row.saturated_fraction is not None]
    if not shares:
        return NotJudged("no layer has a nonlinearity that saturates on both sides")
    crossing = [(share, row) for share, row in shares if thresholds.severity(share) is not None]
    if not crossing:
        return None
    crossing.sort(key=lambda pair: -pair[0])
    firing = [row for _, row in crossing]
    value, worst = crossing[0]
    severity = thresholds.severity(value) or "warn"
    fault = fault_of_layers(evidence, "saturated", firing)
    others = f", and {counted(len(firing) - 1, 'other layer')} too" if len(firing) > 1 else ""
    spread = worst.preactivation.std if worst.preactivation is not None else None
    because = f" Its inputs have a standard deviation of {number(spread)}." if spread else ""
    function = worst.nonlinearity or worst.joined_nonlinearity
    factor = round(1.0 / spread, 4) if spread and spread > 1 else 0.5
    return RULE.finding(
        severity=severity,
        layers=names(firing),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=f"{percent(value)} of the {function} outputs of {quoted(worst.name)} are saturated{others}.",
        explanation=RULE.why + because,
        remedy=_from_logits(evidence, worst, function)
        or Remedy(action="scale_weights", arguments={"factor": factor, "layers": list(names(firing)[:64])}),
        operation=fault.operation if fault is not None else None,
    )


def _from_logits(evidence: Evidence, worst: LayerMeasurement, function: str | None) -> Remedy | None:
    """Advise a loss of logits where the saturated function is the network's output: the weights may be right."""
    if worst is not evidence.layers[-1] or function not in _OF_LOGITS:
        return None
    change = f"Compute the loss from the values before the {function}: {_OF_LOGITS[function]} keep their slope there."
    return Remedy(action="mend_operation", arguments={"operation": function, "layer": worst.name, "change": change})


RULE = Rule(
    id="saturated_activation",
    title="Saturated activations",
    what="Share of elements where the slope is under 5 % of the activation's largest slope.",
    why=(
        "In its flat part an activation hardly reacts to its input, so almost no gradient passes back through it, and "
        "the layers before it stop learning."
    ),
    unit="share of elements",
    compares="above",
    largest=1.0,
    reference="Glorot and Bengio 2010, section 3; LeCun et al. 1998, Efficient BackProp, section 4.5",
    check=check,
    if_it_learns="warn",
    warn=Level(0.2, "chosen: a fifth of the slopes are gone; small weights leave under 1 % saturated"),
    fail=Level(0.5, "chosen: more than half of the slopes are gone"),
)
