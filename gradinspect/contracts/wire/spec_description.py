"""The description of a spec for its author: layers, shapes, parameters and memory."""

from __future__ import annotations

from math import prod

from gradinspect.contracts.field_errors import pointer
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Block, Call
from gradinspect.contracts.spec.spec_error import SpecError
from gradinspect.contracts.wire.resources import SpecDescription, SpecLayer

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def describe_spec(spec: ModelSpec) -> SpecDescription:
    """Describe the network that `spec` would build, without computing with tensors.

    Memory is in the spec's own floating-point type (float32 for token inputs). `activation_bytes_per_sample` counts
    what autograd keeps for backward: exact for most layers, an estimate inside recurrent and attention layers.

    Raises:
        ProblemError: `invalid_spec`, with the location of the layer that does not fit.
    """
    try:
        plan = spec.plan
    except SpecError as fault:
        errors = [FieldError(pointer=pointer(fault.location), detail=fault.detail)]
        raise ProblemError("invalid_spec", fault.detail, errors=errors) from None
    item = ITEM_BYTES.get(spec.input.dtype, 4)
    calls = list(plan.calls())
    saved = sum(step.saved if isinstance(step, Call) else prod(step.output_shape) for step in calls)
    return SpecDescription(
        parameters=plan.parameters,
        layers=tuple(_described(step) for step in calls),
        output_shape=plan.output_shape,
        parameter_bytes=plan.parameters * item,
        activation_bytes_per_sample=saved * item,
    )


def _described(step: Call | Block) -> SpecLayer:
    if isinstance(step, Block):
        return SpecLayer(name=step.path, kind=step.container.type, output_shape=step.output_shape, parameters=0)
    parameters = sum(
        prod(shape) for name, shape in step.parameters.items() if not (name == "weight" and step.tied_to is not None)
    )
    return SpecLayer(name=step.path, kind=step.layer.type, output_shape=step.output_shape, parameters=parameters)
