"""Do a request's data and its spec go together? Told here, before anything is queued or built."""

from __future__ import annotations

from gradinspect.contracts.data import ArtifactData, Data, IntegersTensor, TensorSource
from gradinspect.contracts.model_spec import ModelSpec
from gradinspect.contracts.plan import make_plan
from gradinspect.contracts.spec_error import Location, SpecError


def misfit(spec: ModelSpec, data: Data | None) -> tuple[Location, str] | None:
    """Say where in `data` something does not fit `spec`, and what to change; None when nothing is wrong.

    Args:
        spec: the model.
        data: a request's data; None, and an artifact's tensors, which are not looked at here, always fit.
    """
    if isinstance(data, ArtifactData):
        if len(data.inputs) != 1:
            return ("inputs",), f"a spec takes one tensor, and {len(data.inputs)} are named; keep one"
        return None
    if data is None or data.inputs is None:
        return None
    if len(data.inputs) != 1:
        return ("inputs",), f"a spec takes one tensor, and {len(data.inputs)} are given; keep one"
    found = _tensor_misfit(spec, data.inputs[0])
    return None if found is None else (("inputs", 0, found[0]), found[1])


def _tensor_misfit(spec: ModelSpec, tensor: TensorSource) -> tuple[str, str] | None:
    """Name the field of `tensor` that does not fit, and what to change."""
    if (tensor.dtype in ("int64", "int32")) != spec.input.holds_tokens:
        wanted = "integers" if spec.input.holds_tokens else "floating-point numbers"
        return "dtype", f"the spec's input is {spec.input.dtype}: give {wanted}, not {tensor.dtype}"
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
    # Another length or image size is fine as long as the same network takes it.
    return None if other.same_parameters(spec.plan) else ("shape", f"{expected}; the parameters' sizes would differ")
