"""Every layer of a spec compared with the class of torch.nn that it describes: arguments, shapes, parameters."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticUndefined
from torch import nn

import tests.support.networks.layer_specimens as specimens
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.spec.layers import LAYER_TYPES, Layer
from gradinspect.contracts.spec.layers.layer import RESERVED_NAMES
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.network.build import OWN_MODULES, build

OURS = {"PositionalEmbedding", "Permute", "Mean"}  # torch has no class of this name
# Arguments of torch that a spec does not accept, with the reason.
LEFT_OUT = {
    "device", "dtype",  # of the whole model
    "return_indices", "include_last_offset",  # another form of output or input
    "sparse", "_weight", "_freeze", "_random_samples", "min_value", "max_value",  # internal, deprecated or sparse
    "kdim", "vdim", "enable_nested_tensor", "mask_check",  # for inputs that a spec cannot give
}  # fmt: skip
ADDED = {"output", "causal"}  # our addition: selects the output


def torch_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Return the constructor's arguments, those behind *args and **kwargs included."""
    made = nn.modules.rnn.RNNBase if name in ("RNN", "GRU", "LSTM") else getattr(nn, name)
    found = dict(inspect.signature(made.__init__).parameters)
    if name in ("RNN", "GRU", "LSTM"):
        del found["mode"]
        if name != "LSTM":
            del found["proj_size"]
        if name == "RNN":
            found["nonlinearity"] = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")
    return {key: part for key, part in found.items() if key not in ("self", "args", "kwargs")}


def spec_arguments(name: str) -> dict[str, Any]:
    """Return the arguments that a spec takes, with their defaults."""
    made = LAYER_TYPES[name]
    own = {
        key: field
        for key, field in made.model_fields.items()
        if key not in Layer.model_fields or (name, key) == ("PReLU", "init")
    }
    return {key: field.default for key, field in own.items()}


@pytest.mark.parametrize("name", sorted(kind for kind, made in LAYER_TYPES.items() if issubclass(made, Layer)))
def test_a_layer_takes_the_arguments_of_torchs_class_with_torchs_defaults(name: str) -> None:
    if name in OURS:
        assert not hasattr(nn, name)
        return
    theirs, ours = torch_arguments(name), spec_arguments(name)
    assert set(ours) - set(theirs) <= ADDED
    assert set(theirs) - set(ours) <= LEFT_OUT
    inferable = LAYER_TYPES[name].inferable  # type: ignore[union-attr]  # a Layer
    for key in set(ours) & set(theirs):
        default = theirs[key].default
        if key in inferable or key == "batch_first" or (key == "dim" and default is None):
            continue
        if key == "activation":
            assert (ours[key], default) == ("relu", nn.functional.relu)
        elif default is inspect.Parameter.empty:
            assert ours[key] is PydanticUndefined, key
        else:
            assert ours[key] == default, key


def test_every_layer_has_a_specimen() -> None:
    assert specimens.covered() == set(LAYER_TYPES)


def test_no_name_can_hide_an_attribute_of_a_module() -> None:
    attributes = {name for made in (nn.Module, nn.Sequential) for name in dir(made) if not name.startswith("_")}
    assert attributes | {"training", "dim", "scale", "shortcut"} <= RESERVED_NAMES


def assert_built_as_planned(spec: ModelSpec) -> None:
    """Build on the meta device and compare names and shapes of parameters, and the output's shape."""
    model = build(spec, seed=0, device="meta").eval()
    planned = {name: tuple(shape) for call in calls(spec) for name, shape in named_parameters(call)}
    shared = {f"{call.path}.weight" for call in calls(spec) if call.tied_to is not None}
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    assert built == planned
    assert spec.plan.parameters == sum(
        parameter.numel() for name, parameter in model.named_parameters(remove_duplicate=False) if name not in shared
    )
    dtype = torch.int64 if spec.input.holds_tokens else torch.float32
    entering = torch.zeros((2, *spec.input.shape), dtype=dtype, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about the speed of even kernels with padding "same"
        leaving = model(entering)
    assert isinstance(leaving, torch.Tensor)
    assert tuple(leaving.shape[1:]) == spec.plan.output_shape


def calls(spec: ModelSpec) -> list[Any]:
    return [step for step in spec.plan.calls() if hasattr(step, "parameters")]


def named_parameters(call: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{call.path}.{name}", shape) for name, shape in call.parameters.items()]


@pytest.mark.parametrize("document", specimens.EVERY_LAYER, ids=specimens.label)
def test_torch_builds_and_returns_what_is_planned(document: specimens.Json) -> None:
    assert_built_as_planned(from_python(ModelSpec, document, code="invalid_spec"))


def planned_or_none(document: specimens.Json) -> ModelSpec | None:
    """Return the spec, or None when it is refused with a reason and a location."""
    try:
        return from_python(ModelSpec, document, code="invalid_spec")
    except ProblemError as problem:
        refused = problem
    assert refused.code == "invalid_spec"
    assert refused.errors
    assert all(error.detail for error in refused.errors)
    return None


@settings(max_examples=800, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(document=specimens.single_layers())
def test_a_random_layer_is_refused_with_a_reason_or_built_as_planned(document: specimens.Json) -> None:
    spec = planned_or_none(document)
    if spec is not None:
        assert_built_as_planned(spec)


@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(shape=specimens.SHAPES, row=st.lists(specimens.nested(), min_size=1, max_size=3))
def test_random_nesting_is_refused_with_a_reason_or_built_as_planned(
    shape: list[int], row: list[specimens.Json]
) -> None:
    spec = planned_or_none(specimens.spec(shape, *row))
    if spec is not None:
        assert_built_as_planned(spec)
        assert from_python(ModelSpec, spec.model_dump(mode="json", exclude_none=True)) == spec


def test_only_modules_that_torch_lacks_or_that_return_several_tensors_are_defined_here() -> None:
    assert set(OWN_MODULES) == OURS | {
        "RNN", "GRU", "LSTM", "MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder",
    }  # fmt: skip
