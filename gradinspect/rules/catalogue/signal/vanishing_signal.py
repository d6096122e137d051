"""The backward signal shrinks on its way from the loss to the first layer."""

from __future__ import annotations

from gradinspect.contracts.report.operations import Fault
from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.request.policy import Severity
from gradinspect.rules.blame import blame
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import BY_DESIGN, OVER_ONE_ELEMENT, explanation, first_fault, mend, place
from gradinspect.rules.gates import Gates
from gradinspect.rules.remedies import remedy_for
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.rules.signal import LayerSignal, branch_signals, end_to_end, layer_signals, time_gains
from gradinspect.wording import counted, fold, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the first layer's signal with the last layer's; then the first time step's with the last's."""
    signals = layer_signals(evidence)
    if isinstance(signals, NotJudged):
        return signals
    gain = end_to_end(signals)
    severity = thresholds.severity(gain)
    if severity is None:
        return _on_branch(evidence, thresholds) or _through_time(evidence, thresholds)
    gate = Gates(evidence).closed_for(evidence.trunk[0].depth) if gain == 0 else None
    if gate is not None:
        return NotJudged(f"{quoted(gate.name)} starts at zero and lets no signal through before its first step")
    fault = _responsible(evidence, gain)
    has_faded = fault is not None and fault.operation.reason == "underflow"
    # A signal that faded below the smallest number of its type is judged by what was left before.
    cause = blame(evidence, gain or (_smallest(signals) if has_faded else 0.0))
    if fault is not None and (cause.cause == "cut_signal" or fault.operation.reason in OVER_ONE_ELEMENT):
        return _cut(evidence, thresholds, severity, gain, fault)
    starved = _starved(signals, thresholds)
    return RULE.finding(
        severity=severity,
        layers=[signal.name for signal in starved],
        value=gain,
        threshold=thresholds.crossed(severity, gain),
        message=_faded(signals, fault) if fault is not None and has_faded else _message(signals, starved, gain),
        explanation=f"{cause.sentence} {RULE.why}",
        remedy=remedy_for(cause),
        operation=fault.operation if fault is not None else None,
    )


def _responsible(evidence: Evidence, gain: float) -> Fault | None:
    """Return the operation behind which the signal is zero, or rounds to nothing over a single element."""
    first = evidence.layers[0].parameters
    fault = first_fault(evidence, "zero", first) if first else None
    if fault is None or fault.operation.reason in BY_DESIGN:
        return None
    return fault if gain == 0 or fault.operation.reason in OVER_ONE_ELEMENT else None


def _cut(evidence: Evidence, thresholds: Thresholds, severity: Severity, gain: float, fault: Fault) -> Finding:
    first = evidence.layers[0].name
    amount = "No backward signal at all" if gain == 0 else "Next to no backward signal"
    return RULE.finding(
        severity=severity,
        layers=dict.fromkeys(row.name for row in evidence.layers if set(row.parameters) & set(fault.parameters)),
        value=gain,
        threshold=thresholds.crossed(severity, gain),
        message=(
            f"{amount} reaches the first layer, {quoted(first)}: nothing passes back through "
            f"{place(fault.operation, stage=fault.stage)}."
        ),
        explanation=f"{explanation(fault)} {RULE.why}",
        remedy=mend(fault),
        operation=fault.operation,
    )


def _smallest(signals: tuple[LayerSignal, ...]) -> float:
    return min((signal.gain / signals[-1].gain for signal in signals if signal.gain > 0), default=0.0)


def _faded(signals: tuple[LayerSignal, ...], fault: Fault) -> str:
    silent = sum(signal.gain == 0 for signal in signals)
    layers = "the first layer" if silent == 1 else f"the first {counted(silent, 'layer')}"
    dtype = fault.operation.inputs[0].dtype if fault.operation.inputs else "its type"
    return (
        f"The backward signal shrinks from layer to layer until {dtype} cannot hold it: it is exactly zero at {layers}."
    )


def _on_branch(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """Judge the branches that join the trunk, each against its own last layer."""
    branches = [(signals, gain) for signals in branch_signals(evidence) if (gain := end_to_end(signals)) > 0]
    worst = min(branches, key=lambda branch: branch[1], default=None)
    if worst is None or (severity := thresholds.severity(worst[1])) is None:
        return None
    signals, gain = worst
    return RULE.finding(
        severity=severity,
        layers=[signal.name for signal in _starved(signals, thresholds)],
        value=gain,
        threshold=thresholds.crossed(severity, gain),
        message=(
            f"The backward signal shrinks {fold(gain)} on the branch from {quoted(signals[-1].name)} back to "
            f"{quoted(signals[0].name)}."
        ),
    )


def _starved(signals: tuple[LayerSignal, ...], thresholds: Thresholds) -> tuple[LayerSignal, ...]:
    """Return the layers before the first one whose signal is large enough."""
    last = signals[-1].gain
    for index, signal in enumerate(signals):
        if last > 0 and thresholds.severity(signal.gain / last) is None:
            return signals[:index]
    return signals


def _message(signals: tuple[LayerSignal, ...], starved: tuple[LayerSignal, ...], gain: float) -> str:
    if gain == 0:
        return f"No backward signal at all reaches the first layer, {quoted(signals[0].name)}: it is exactly zero."
    layers = "the first layer" if len(starved) == 1 else f"the first {counted(len(starved), 'layer')}"
    verb = "learns" if len(starved) == 1 else "learn"
    where = quoted(starved[0].name) + (f" to {quoted(starved[-1].name)}" if len(starved) > 1 else "")
    return f"The backward signal shrinks {fold(gain)} from output to input, so {layers} ({where}) barely {verb}."


def _through_time(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """Judge a signal that fades through time one level milder: the shared weights still learn from the last steps."""
    largest = min(time_gains(evidence), key=lambda time: time.gain, default=None)
    if largest is None or (severity := thresholds.severity(largest.gain)) is None:
        return None
    name, calls, gain = largest.name, largest.calls, largest.gain
    milder: Severity = "warn" if severity == "fail" else "info"
    cause = blame(evidence, gain)
    return RULE.finding(
        severity=milder,
        layers=(name,),
        value=gain,
        threshold=thresholds.crossed(severity, gain),
        message=(
            f"The backward signal shrinks {fold(gain)} over the {calls} calls of {quoted(name)}, "
            "so what happened in the first steps is barely learned from."
        ),
        explanation=f"{cause.sentence} {RULE.why}",
        remedy=remedy_for(cause),
    )


RULE = Rule(
    id="vanishing_signal",
    title="The backward signal vanishes",
    what="The norm of the loss's gradient at the first layer's output, divided by that at the last layer's.",
    why=(
        "A layer learns from this signal alone. Where it is a thousand times weaker than at the output, the layer "
        "moves a thousand times too little, and stays close to its random start while the last layers overfit to it."
    ),
    unit="ratio of norms",
    compares="below",
    reference="Hochreiter 1991; Bengio, Simard and Frasconi 1994; Glorot and Bengio 2010; Schoenholz et al. 2017",
    check=check,
    is_required=True,
    warn=Level(
        1e-3,
        "chosen: beyond the three decades that a learning rate is usually searched over; AUTOTRAINER (Zhang et al. "
        "2021) has the same number for gradients",
    ),
    fail=Level(
        1e-6, "chosen: with updates of 1e-3 at the output, the first layer's fall under float32's resolution of 6e-8"
    ),
)
