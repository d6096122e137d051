"""Inputs that are far from the zero mean and unit scale that initialisations assume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.report.setup import BatchTensor
from gradinspect.rules.evidence import Evidence, is_norm_kind
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.rules.standardising import standardise
from gradinspect.wording import number, quoted

SINGLE = 1e-3  # chosen: one feature this small, next to ordinary ones, is as good as absent


@dataclass(frozen=True, slots=True)
class _Measure:
    value: float
    sentence: str
    layers: Sequence[str]
    tensor: BatchTensor | None
    is_partial: bool = False  # other features have an ordinary size


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the measure that is furthest from 1, of the inputs that a layer takes without normalising them first."""
    inputs = [each for each in evidence.setup.tensors if each.role == "input" and each.rms and not each.is_mask]
    if not inputs:
        return NotJudged("no input holds numbers other than 0")
    is_only = len(inputs) == 1
    measures = [each for tensor in inputs for each in _of_tensor(tensor, evidence, thresholds, is_only=is_only)]
    if not measures and not any(tensor.layers for tensor in inputs):
        measures = list(_of_first_layer(evidence))
    fired = [each for each in measures if thresholds.severity(each.value) is not None]
    if not fired:
        return None
    worst = max(fired, key=lambda each: (not each.is_partial, abs(math.log(each.value))))
    severity = thresholds.severity(worst.value) or "warn"
    if worst.is_partial and "warn" in thresholds.levels:
        severity = "warn"
    return RULE.finding(
        severity=severity,
        layers=worst.layers,
        value=worst.value,
        threshold=thresholds.crossed(severity, worst.value),
        message=worst.sentence,
        remedy=_remedy(worst.tensor, len(inputs)),
    )


def _of_tensor(tensor: BatchTensor, evidence: Evidence, thresholds: Thresholds, *, is_only: bool) -> Iterator[_Measure]:
    """Measure an input as a whole; where that is as expected, its features."""
    layers = [name for name in tensor.layers if not is_norm_kind(evidence.kind_of.get(name, ""))]
    if not layers:
        return
    size, name = tensor.rms or 0.0, "The input" if is_only else f"The {quoted(tensor.name)}"
    enters = f"{name} enters {quoted(layers[0])} as it is"
    if thresholds.severity(size) is not None:
        sentence = (
            f"{enters}, with values of about {number(size)} (rms; mean {number(tensor.mean or 0.0)}), where layers are "
            "initialised for about 1."
        )
        yield _Measure(size, sentence, layers, tensor)
        return
    large, small, offset = tensor.largest_rms, tensor.smallest_rms, tensor.largest_offset
    if large and large > size:
        sentence = (
            f"{enters}; its feature {tensor.largest_feature} has values of about {number(large)} (rms), where layers "
            "are initialised for about 1."
        )
        yield _Measure(large, sentence, layers, tensor)
    if small and small < SINGLE:
        sentence = (
            f"{enters}; its feature {tensor.smallest_feature} has values of about {number(small)} (rms), so the "
            "network hardly sees it."
        )
        yield _Measure(small, sentence, layers, tensor, is_partial=True)
    if offset and offset > 1:
        mean = f"the mean of its feature {tensor.offset_feature}" if tensor.feature_axis is not None else "its mean"
        sentence = f"{enters}; {mean} is {number(offset)} times the standard deviation, so it is nearly a constant."
        yield _Measure(offset, sentence, layers, tensor, is_partial=True)


def _of_first_layer(evidence: Evidence) -> Iterator[_Measure]:
    """Measure what enters the first layer, where the network changes its inputs before any layer takes them."""
    row = next(iter(evidence.layers), None)
    size = _entering(row) if row is not None and not evidence.is_norm(row.name) else None
    if row is not None and size:
        sentence = (
            f"What enters the first layer, {quoted(row.name)}, has values of about {number(size)} (rms), where layers "
            "are initialised for about 1."
        )
        yield _Measure(size, sentence, (row.name,), None)


def _entering(row: LayerMeasurement) -> float | None:
    """Return the rms of a call's input, from its output and its gain."""
    if row.activation is None or not row.activation.rms or not row.forward_gain:
        return None
    return row.activation.rms / row.forward_gain


def _remedy(tensor: BatchTensor | None, inputs: int) -> Remedy | None:
    if tensor is None:
        return None
    position = int(tensor.name.rpartition(" ")[2]) if inputs > 1 else None
    return standardise("standardise_inputs", tensor, position=position)


RULE = Rule(
    id="input_scale",
    title="The inputs are not scaled",
    what="rms of the inputs that enter a layer as they are (zeros left out), in all and by feature; |mean| / standard "
    "deviation of a feature that varies.",
    why=(
        "Initialisations assume inputs of zero mean and unit scale. Large inputs saturate units and make the loss so "
        "steep that only tiny steps are stable; small or nearly constant ones hardly reach the output. Standardising "
        "each feature over the training data mends it."
    ),
    unit="per element",
    compares="outside",
    reference="LeCun, Bottou, Orr and Müller 1998, Efficient BackProp, section 4.3: normalising the inputs",
    check=check,
    if_it_learns="warn",
    warn=Level((0.05, 20.0), "chosen: images in 0 … 1 and one-hot inputs are inside, pixels in 0 … 255 are not"),
    fail=Level(
        (1e-3, 1e3), "chosen: the first step changes the output as much as a million ordinary ones, or as little"
    ),
)
