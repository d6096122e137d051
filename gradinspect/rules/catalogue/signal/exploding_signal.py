"""The backward signal grows on its way from the loss to the first layer."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding
from gradinspect.rules.blame import blame
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.remedies import remedy_for
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.rules.signal import branch_signals, end_to_end, layer_signals, time_gains
from gradinspect.wording import fold, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the first layer's signal with the last layer's, along the trunk, each branch and each recurrence."""
    signals = layer_signals(evidence)
    if isinstance(signals, NotJudged):
        return signals
    gain = end_to_end(signals)
    message = f"The backward signal grows {fold(gain)} from output to input; it is largest at "
    message += f"{quoted(max(signals, key=lambda signal: signal.gain).name)}."
    for branch in branch_signals(evidence):
        if end_to_end(branch) > gain:
            signals, gain = branch, end_to_end(branch)
            message = f"The backward signal grows {fold(gain)} on the branch from {quoted(branch[0].name)} to "
            message += f"{quoted(branch[-1].name)}."
    through_time = max(time_gains(evidence), key=lambda time: time.gain, default=None)
    if through_time is not None and through_time.gain > gain:
        gain = through_time.gain
        message = f"The backward signal grows {fold(gain)} over the {through_time.calls} calls of "
        message += f"{quoted(through_time.name)}."
    severity = thresholds.severity(gain)
    if severity is None:
        return None
    cause = blame(evidence, gain)
    last = signals[-1].gain
    grown = sorted(
        (signal for signal in signals if last > 0 and thresholds.severity(signal.gain / last) is not None),
        key=lambda signal: -signal.gain,
    )
    layers = [signal.name for signal in grown] or (signals[0].name,)
    return RULE.finding(
        severity=severity,
        layers=layers,
        value=gain,
        threshold=thresholds.crossed(severity, gain),
        message=message,
        explanation=f"{cause.sentence} {RULE.why}",
        remedy=remedy_for(cause),
    )


RULE = Rule(
    id="exploding_signal",
    title="The backward signal explodes",
    what="The norm of the loss's gradient at the first layer's output, divided by that at the last layer's.",
    why=(
        "The first layers get far larger gradients than the last. A learning rate that suits one end destroys or "
        "freezes the other, and a few steps may end in NaN."
    ),
    unit="ratio of norms",
    compares="above",
    reference="Bengio, Simard and Frasconi 1994; Pascanu et al. 2013; Yang et al. 2019, for batch normalisation",
    check=check,
    is_required=True,
    warn=Level(70.0, "AUTOTRAINER (Zhang et al. 2021), there of gradients; above what our healthy nets show"),
    fail=Level(1e4, "chosen: no learning rate serves both ends over four decades"),
)
