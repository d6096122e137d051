"""NaN or infinity in weights, activations or gradients, and the layer where it begins."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, quoted


def check(evidence: Evidence, _: Thresholds) -> Finding | NotJudged | None:
    """Look along the data: weights first, then activations, then gradients on the way back."""
    layers = tuple(row.name for row in evidence.layers if row.nonfinite_count)
    weights = tuple(row.name for row in evidence.parameters if row.weight_nonfinite_count)
    gradients = tuple(row.name for row in evidence.parameters if row.nan_count or row.inf_count)
    count = sum(row.nonfinite_count for row in evidence.layers) + sum(
        row.weight_nonfinite_count + row.nan_count + row.inf_count for row in evidence.parameters
    )
    if weights:
        bad = _bad_weights(evidence)
        verb = "is" if bad == 1 else "are"
        message = f"{counted(bad, 'value')} of the weight {quoted(weights[0])} {verb} NaN or infinite."
        remedy = Remedy(action="restore_weights", arguments={"parameters": list(weights[:32])})
    elif layers:
        message = f"NaN or infinity first appears in the output of {quoted(layers[0])}, from finite weights."
        remedy = Remedy(action="check_operation", arguments={"layer": layers[0]}, code=_ANOMALY)
    elif gradients:
        last = _origin(evidence, gradients)
        message = f"The forward pass is finite, but the gradient is NaN or infinite from {quoted(last)} on back."
        remedy = Remedy(action="check_operation", arguments={"parameter": last}, code=_ANOMALY)
    elif evidence.summary.loss is None:
        message = "The loss is NaN or infinite although every layer's output is finite: check the target and the loss."
        remedy = Remedy(action="check_target", arguments={})
    else:
        return None
    return RULE.finding(
        severity="fail",
        layers=layers,
        parameters=(*weights, *gradients),
        value=float(count),
        message=message,
        remedy=remedy,
    )


def _bad_weights(evidence: Evidence) -> int:
    return next(row.weight_nonfinite_count for row in evidence.parameters if row.weight_nonfinite_count)


def _origin(evidence: Evidence, gradients: tuple[str, ...]) -> str:
    """Return the parameter nearest the loss: gradients are computed from the loss backwards."""
    return max(gradients, key=lambda name: evidence.depth_of.get(name, -1))


_ANOMALY = (
    "import torch\n\n"
    "torch.autograd.set_detect_anomaly(True)  # names the operation whose backward gives NaN; slow, for debugging\n"
)

RULE = Rule(
    id="non_finite",
    title="NaN or infinity",
    what="Counts values that are NaN or infinite in weights, layer outputs and gradients, and the loss itself.",
    why="One NaN spreads to every weight in a single step, after which nothing can be learned and the run is lost.",
    unit="values",
    compares="present",
    reference="IEEE 754; PyTorch documentation, torch.autograd.set_detect_anomaly",
    check=check,
    always="fail",
)
