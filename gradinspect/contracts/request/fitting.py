"""Checks that a request's data, loss and spec fit together, before anything is queued or built."""

from __future__ import annotations

from gradinspect.contracts.request.data import ArtifactData, ClassesTarget, Data, IntegersTensor, TensorSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.spec_error import Location, SpecError
from gradinspect.contracts.spec.walk import make_plan

NO_PARAMETERS = "no layer has parameters, so there is no gradient to inspect; add one that has some, such as Linear"
CLASS_LOSSES = ("cross_entropy", "nll")
VALUE_LOSSES = ("mse", "l1", "huber", "bce_with_logits")


def target_misfit(loss: str, data: Data | None) -> tuple[Location, str] | None:
    """Return the error for a target of a kind that `loss` does not take; None when it fits or is omitted."""
    target = None if data is None or isinstance(data, ArtifactData) else data.target
    if target is None:
        return None
    is_classes = isinstance(target, ClassesTarget)
    if loss in CLASS_LOSSES and not is_classes:
        return ("target", "kind"), f"the loss {loss} takes classes, not {target.kind}"
    if loss in VALUE_LOSSES and is_classes:
        return ("target", "kind"), f"the loss {loss} takes normal or binary, not classes"
    return None


def misfit(spec: ModelSpec, data: Data | None, *, loss: str) -> tuple[Location, str] | None:
    """Return where `data` does not fit `spec`, and what to change; None when it fits.

    Args:
        spec: the model.
        data: a request's data. None always fits; the tensors of an artifact are not read here, so they fit, too.
        loss: a request's loss.
    """
    if isinstance(data, ArtifactData):
        if len(data.inputs) != 1:
            return ("inputs",), f"a spec takes one tensor, and {len(data.inputs)} are named; keep one"
        return None
    if data is None:
        return None
    output = spec.plan.output_shape
    if loss in CLASS_LOSSES and isinstance(data.target, ClassesTarget) and len(output) == 1:
        classes = data.target.num_classes
        if classes > output[0]:
            return ("target", "num_classes"), f"{classes} classes do not fit: the spec's output has {output[0]}"
    if data.inputs is None:
        return None
    if len(data.inputs) != 1:
        return ("inputs",), f"a spec takes one tensor, and {len(data.inputs)} are given; keep one"
    problem = _tensor_misfit(spec, data.inputs[0])
    return None if problem is None else (("inputs", 0, problem[0]), problem[1])


def _tensor_misfit(spec: ModelSpec, tensor: TensorSource) -> tuple[str, str] | None:
    """Name the field of `tensor` that does not fit, and what to change."""
    if (tensor.dtype in ("int64", "int32")) != spec.input.holds_tokens:
        kind = "integers" if spec.input.holds_tokens else "floating-point numbers"
        return "dtype", f"the spec's input is {spec.input.dtype}: give {kind}, not {tensor.dtype}"
    sample = tensor.shape[1:]
    if isinstance(tensor, IntegersTensor):
        vocabulary = spec.plan.vocabulary
        if vocabulary is not None and tensor.high > vocabulary:
            return "high", f"tokens up to {tensor.high - 1} do not fit an Embedding of {vocabulary}"
        if vocabulary is not None and tensor.low < 0:
            return "low", "tokens start at 0"
    if sample == spec.input.shape:
        return None
    expected = f"the spec's input is {list(spec.input.shape)} behind the batch axis, this tensor's is {list(sample)}"
    try:
        other = make_plan(sample, tokens=spec.input.holds_tokens, layers=spec.layers, init=spec.init)
    except SpecError as fault:
        return "shape", f"{expected}: {fault.detail}"
    # Another length or image size is fine if the same network accepts it.
    return None if other.same_parameters(spec.plan) else ("shape", f"{expected}; the parameters' sizes would differ")
