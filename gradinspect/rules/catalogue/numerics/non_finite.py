"""NaN or infinity in data, weights, activations, loss or gradients, and the operation where it begins."""

from __future__ import annotations

from gradinspect.contracts.report.operations import Fault
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import explanation, first_fault, mend, place
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, quoted


def check(evidence: Evidence, _: Thresholds) -> Finding | NotJudged | None:
    """Look along the data: inputs and targets, weights, activations, the loss, then gradients on the way back."""
    layers = tuple(row.name for row in evidence.layers if row.nonfinite_count)
    weights = tuple(row.name for row in evidence.parameters if row.weight_nonfinite_count)
    gradients = tuple(row.name for row in evidence.parameters if row.nan_count or row.inf_count)
    count = sum(row.nonfinite_count for row in evidence.layers) + sum(
        row.weight_nonfinite_count + row.nan_count + row.inf_count for row in evidence.parameters
    )
    loss_is_bad = evidence.summary.loss is None
    if not (layers or weights or gradients or loss_is_bad):
        return None
    fault = first_fault(evidence, "non_finite")
    if fault is not None and (not weights or fault.stage == "data"):
        message, remedy = _located(evidence, fault, gradients), mend(fault)
    else:
        fault = None
        message, remedy = _unlocated(evidence, weights, layers, gradients)
    return RULE.finding(
        severity="fail",
        layers=layers,
        parameters=(*weights, *gradients),
        value=float(max(count, 1)),
        message=message,
        explanation=f"{explanation(fault)} {RULE.why}" if fault is not None else None,
        remedy=remedy,
        operation=fault.operation if fault is not None else None,
    )


def _located(evidence: Evidence, fault: Fault, gradients: tuple[str, ...]) -> str:
    where = place(fault.operation, stage=fault.stage)
    if fault.stage == "data":
        return f"The {fault.operation.name} holds NaN or infinity before the model runs."
    if fault.stage == "forward" and evidence.summary.loss is not None:
        return f"NaN or infinity begins in the forward pass at {where}; the loss leaves it out, the gradient does not."
    if fault.stage == "forward":
        return f"NaN or infinity begins in the forward pass at {where}, from finite values."
    if fault.stage == "loss":
        return f"NaN or infinity begins in the loss at {where}, from finite values."
    whose = f"; {quoted(_origin(evidence, gradients))} is the first parameter that gets it" if gradients else ""
    return f"The forward pass and the loss are finite; the gradient becomes NaN or infinite at {where}{whose}."


def _unlocated(
    evidence: Evidence, weights: tuple[str, ...], layers: tuple[str, ...], gradients: tuple[str, ...]
) -> tuple[str, Remedy]:
    if weights:
        bad = _bad_weights(evidence)
        verb = "is" if bad == 1 else "are"
        message = f"{counted(bad, 'value')} of the weight {quoted(weights[0])} {verb} NaN or infinite."
        return message, Remedy(action="restore_weights", arguments={"parameters": list(weights[:32])})
    if layers:
        message = f"NaN or infinity first appears in or behind the output of {quoted(layers[0])}, from finite weights."
        return message, Remedy(action="check_operation", arguments={"layer": layers[0]})
    if evidence.summary.loss is None:
        message = "The loss is NaN or infinite although every layer's output is finite: check the target and the loss."
        return message, Remedy(action="check_target", arguments={})
    last = _origin(evidence, gradients)
    message = (
        f"The forward pass and the loss are finite, but the gradient is NaN or infinite from {quoted(last)} on back."
    )
    return message, Remedy(action="check_operation", arguments={"parameter": last})


def _bad_weights(evidence: Evidence) -> int:
    return next(row.weight_nonfinite_count for row in evidence.parameters if row.weight_nonfinite_count)


def _origin(evidence: Evidence, gradients: tuple[str, ...]) -> str:
    """Return the parameter nearest the loss: gradients are computed from the loss backwards."""
    return max(gradients, key=lambda name: evidence.depth_of.get(name, -1))


RULE = Rule(
    id="non_finite",
    title="NaN or infinity",
    what="Counts values that are NaN or infinite in weights, layer outputs and gradients, and the loss itself.",
    why="One NaN spreads to every weight in a single step, after which nothing can be learned and the run is lost.",
    unit="values",
    compares="present",
    reference="IEEE 754; PyTorch documentation, numerical accuracy",
    check=check,
    if_it_learns="kept",
    always="fail",
)
