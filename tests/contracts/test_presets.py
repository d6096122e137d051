"""Presets: a few arguments become the plain spec of a well-known network, and that spec is stored."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.request import InlineModel, InspectionRequest
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.contracts.wire.resources import ModelRegistration
from gradinspect.engine.network.build import build


def expanded(**arguments: Any) -> ModelSpec:
    """Return the plain spec."""
    return from_python(ModelSpec, arguments, code="invalid_spec")


def fault(**arguments: Any) -> tuple[str, str]:
    """Return the pointer and the detail of the only error."""
    with pytest.raises(ProblemError) as caught:
        expanded(**arguments)
    (error,) = caught.value.errors
    return error.pointer, error.detail


def kinds(spec: ModelSpec) -> list[str]:
    """List layer types in the order in which they run."""
    return [step.layer.type if hasattr(step, "layer") else step.container.type for step in spec.plan.calls()]


@pytest.mark.parametrize("preset", ["mlp", "cnn", "resnet", "rnn", "transformer"])
def test_every_argument_but_the_presets_name_has_a_default(preset: str) -> None:
    spec = expanded(preset=preset)
    assert spec.plan.output_shape == (10,)
    model = build(spec, seed=0, device="meta")
    dtype = torch.int64 if spec.input.holds_tokens else torch.float32
    assert model(torch.zeros((2, *spec.input.shape), dtype=dtype, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("preset", ["mlp", "cnn", "resnet", "rnn", "transformer"])
def test_a_preset_is_stored_as_a_plain_spec_that_reads_back_the_same(preset: str) -> None:
    spec = expanded(preset=preset)
    stored = spec.model_dump(mode="json", exclude_none=True)
    assert "preset" not in stored
    assert from_python(ModelSpec, stored) == spec


def test_a_preset_is_accepted_wherever_a_spec_is() -> None:
    plain = expanded(preset="mlp", widths=[8])
    request = from_python(InspectionRequest, {"model": {"spec": {"preset": "mlp", "widths": [8]}}})
    assert isinstance(request.model, InlineModel)
    assert request.model.spec == plain
    assert from_python(ModelRegistration, {"spec": {"preset": "mlp", "widths": [8]}}).spec == plain


def test_an_mlp_is_linear_norm_activation_and_dropout_in_this_order() -> None:
    spec = expanded(
        preset="mlp", input={"shape": [3, 4]}, widths=[8, 6], norm="LayerNorm", activation="tanh", dropout=0.1
    )
    hidden = ["Linear", "LayerNorm", "Tanh", "Dropout"]
    assert kinds(spec) == ["Flatten", *hidden, *hidden, "Linear"]
    assert spec.plan.parameters == (12 * 8 + 8) + 2 * 8 + (8 * 6 + 6) + 2 * 6 + (6 * 10 + 10)


def test_a_residual_mlp_skips_where_the_width_stays() -> None:
    spec = expanded(preset="mlp", input={"shape": [8]}, widths=[8, 6, 6], residual=True)
    assert [kind for kind in kinds(spec) if kind == "Residual"] == ["Residual", "Residual"]


def test_a_cnn_halves_between_stages_on_any_number_of_axes() -> None:
    for shape in ([2, 16], [2, 16, 16], [2, 16, 16, 16]):
        spec = expanded(preset="cnn", input={"shape": shape}, channels=[4, 6], convolutions_per_stage=2)
        pooled = next(step for step in spec.plan.calls() if isinstance(step, Call) and "MaxPool" in step.layer.type)
        assert pooled.output_shape == (4, *[8] * (len(shape) - 1))
        assert sum(kind.startswith("Conv") for kind in kinds(spec)) == 4


def test_resnet_18_on_imagenet_has_torchvisions_parameters() -> None:
    spec = expanded(preset="resnet", input={"shape": [3, 224, 224]}, num_classes=1000)
    assert spec.plan.parameters == 11_689_512  # torchvision's documentation of resnet18
    assert (
        expanded(preset="resnet", input={"shape": [3, 224, 224]}, num_classes=1000, blocks=[3, 4, 6, 3]).plan.parameters
        == 21_797_672
    )


def test_a_resnet_starts_from_hes_normal_by_its_fan_out() -> None:
    model = build(expanded(preset="resnet", blocks=[1, 1], width=32), seed=0)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    # The standard deviation of n draws has a relative error of 1/√(2n); five of them are a false alarm of 6e-7.
    for convolution in convolutions:
        wanted = (2 / (convolution.out_channels * prod(convolution.kernel_size))) ** 0.5
        spread = 5 / (2 * convolution.weight.numel()) ** 0.5
        assert float(convolution.weight.detach().std()) == pytest.approx(wanted, rel=spread)


def test_residual_branches_of_a_resnet_may_start_at_zero() -> None:
    spec = expanded(preset="resnet", blocks=[1], width=4, zero_init_residual=True)
    model = build(spec, seed=0).eval()
    x = torch.rand(2, 4, 8, 8)
    block = model.get_submodule("stage1_block1")
    torch.testing.assert_close(block(x), x)


def test_an_rnn_reads_tokens_through_an_embedding_and_features_directly() -> None:
    tokens = expanded(preset="rnn", input={"shape": [7], "dtype": "int64"}, vocabulary=20, cell="GRU", hidden_size=6)
    assert kinds(tokens) == ["Embedding", "GRU", "Linear"]
    assert tokens.input.high == 20
    features = expanded(preset="rnn", input={"shape": [7, 3]}, cell="RNN", nonlinearity="relu", output="sequence")
    assert kinds(features) == ["RNN", "Linear"]
    assert features.plan.output_shape == (7, 10)


def test_a_decoder_sees_the_past_only_and_ties_its_head() -> None:
    spec = expanded(
        preset="transformer", kind="decoder", input={"shape": [6], "dtype": "int64"}, vocabulary=20, depth=2
    )
    model = build(spec, seed=0).eval()
    assert model.get_parameter("head.weight") is model.get_parameter("tokens.weight")
    first = torch.zeros(1, 6, dtype=torch.int64)
    second = first.clone()
    second[0, 4:] = 5
    assert torch.equal(model(first)[:, :4], model(second)[:, :4])
    assert not torch.equal(model(first)[:, 4:], model(second)[:, 4:])


def test_a_transformer_starts_as_gpt_2_does() -> None:
    depth = 8
    model = build(expanded(preset="transformer", depth=depth, width=64), seed=0).state_dict()
    for name, tensor in model.items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif tensor.dim() == 2:
            residual = name.endswith(("out_proj.weight", "linear2.weight"))
            wanted = 0.02 / (2 * depth) ** 0.5 if residual else 0.02
            spread = 5 / (2 * tensor.numel()) ** 0.5
            assert float(tensor.std()) == pytest.approx(wanted, rel=spread), name
        else:
            assert bool((tensor == 1).all()), name


def test_an_init_of_the_caller_replaces_the_presets() -> None:
    small: list[dict[str, Any]] = [
        {"preset": "resnet", "blocks": [1], "width": 4},
        {"preset": "transformer", "depth": 1},
    ]
    for arguments in small:
        spec = expanded(**arguments, init={"weight": {"name": "constant_", "val": 0.5}})
        model = build(spec, seed=0)
        assert all(float(p.detach().min()) == 0.5 for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize(
    ("arguments", "pointer", "word"),
    [
        ({"preset": "mlpp"}, "/preset", "did you mean 'mlp'"),
        ({"preset": "vgg"}, "/preset", "known are mlp, cnn, resnet, rnn, transformer"),
        ({"preset": 3}, "/preset", "known are"),
        ({"preset": "mlp", "hight": 3}, "/hight", "unknown field"),
        ({"preset": "mlp", "layers": []}, "/layers", "unknown field"),
        ({"preset": "mlp", "widths": [8, 0]}, "/widths/1", "greater than or equal to 1, got 0"),
        ({"preset": "mlp", "widths": []}, "/widths", "at least 1 item"),
        ({"preset": "mlp", "widths": [8], "depth": 2}, "/depth", "keep one"),
        ({"preset": "mlp", "widths": [8], "width": 2}, "/width", "keep one"),
        ({"preset": "mlp", "activation": "relux"}, "/activation", "'ReLU'"),
        ({"preset": "mlp", "dropout": 1}, "/dropout", "less than 1"),
        ({"preset": "mlp", "widths": [8, 6], "residual": True}, "/residual", "nothing can be skipped"),
        ({"preset": "mlp", "input": {"shape": [3], "dtype": "int64"}}, "/input/dtype", "takes numbers, not tokens"),
        ({"preset": "mlp", "input": {"shape": []}}, "/input/shape", "one sample of shape (features"),
        ({"preset": "mlp", "depth": 10**6}, "/depth", "less than or equal to 1000"),
        ({"preset": "mlp", "width": 2**20, "depth": 1000}, "/preset", "more than 17179869184 parameters"),
        ({"preset": "cnn", "kernel_size": 4}, "/kernel_size", "take 5"),
        ({"preset": "cnn", "input": {"shape": [3, 4, 4]}, "channels": [4, 4, 4, 4]}, "/channels", "at most 3 stages"),
        ({"preset": "cnn", "input": {"shape": [3]}}, "/input/shape", "channels, height, width"),
        ({"preset": "resnet", "input": {"shape": [3, 32]}}, "/input/shape", "channels, height, width"),
        ({"preset": "resnet", "blocks": [2, 0]}, "/blocks/1", "greater than or equal to 1"),
        ({"preset": "resnet", "width": 2**20}, "/width", "it doubles with each stage"),
        ({"preset": "rnn", "cell": "GRU", "nonlinearity": "tanh"}, "/nonlinearity", "an argument of cell RNN"),
        ({"preset": "rnn", "vocabulary": 5}, "/vocabulary", "set input.dtype to int64"),
        ({"preset": "rnn", "input": {"shape": [5], "dtype": "int64"}}, "/input/dtype", "need a vocabulary"),
        ({"preset": "rnn", "input": {"shape": [5]}}, "/input/shape", "time, features"),
        ({"preset": "transformer", "heads": 3}, "/heads", "3 heads do not divide a width of 128"),
        ({"preset": "transformer", "tie": True}, "/tie", "kind decoder"),
        ({"preset": "transformer", "kind": "decoder", "num_classes": 3}, "/num_classes", "give vocabulary instead"),
        ({"preset": "transformer", "kind": "decoder", "input": {"shape": [5, 4]}}, "/input/dtype", "set it to int64"),
        ({"preset": "transformer", "input": {"shape": [5, 4]}, "vocabulary": 9}, "/vocabulary", "it goes with tokens"),
        (
            {"preset": "transformer", "input": {"shape": [5], "dtype": "int64", "high": 99}, "vocabulary": 9},
            "/preset", "do not fit an Embedding of 9",
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(arguments: dict[str, Any], pointer: str, word: str) -> None:
    found, detail = fault(**arguments)
    assert found == pointer
    assert word in detail


SMALL = {
    "mlp": st.fixed_dictionaries({
        "widths": st.lists(st.integers(1, 9), min_size=1, max_size=4), "residual": st.booleans(),
        "norm": st.sampled_from([None, "BatchNorm1d", "LayerNorm", "RMSNorm"]), "dropout": st.sampled_from([0, 0.5]),
        "activation": st.sampled_from(["ReLU", "gelu", "SELU", "Identity"]), "bias": st.booleans(),
        "input": st.fixed_dictionaries({"shape": st.lists(st.integers(1, 5), min_size=1, max_size=3)}),
    }),
    "cnn": st.fixed_dictionaries({
        "channels": st.lists(st.integers(1, 6), min_size=1, max_size=4), "kernel_size": st.sampled_from([1, 3, 5]),
        "norm": st.sampled_from([None, "BatchNorm", "InstanceNorm"]), "pooling": st.sampled_from([None, "max", "avg"]),
        "input": st.fixed_dictionaries({"shape": st.lists(st.integers(1, 12), min_size=2, max_size=4)}),
    }),
    "resnet": st.fixed_dictionaries({
        "blocks": st.lists(st.integers(1, 2), min_size=1, max_size=3), "width": st.integers(1, 6),
        "stem": st.sampled_from([None, "small", "large"]), "zero_init_residual": st.booleans(),
        "input": st.fixed_dictionaries({"shape": st.lists(st.integers(1, 40), min_size=3, max_size=3)}),
    }),
    "rnn": st.fixed_dictionaries({
        "cell": st.sampled_from(["RNN", "LSTM", "GRU"]), "hidden_size": st.integers(1, 6),
        "num_layers": st.integers(1, 3), "output": st.sampled_from(["last", "sequence"]),
        "bidirectional": st.booleans(), "dropout": st.sampled_from([0, 0.5]),
        "input": st.sampled_from([{"shape": [4, 3]}, {"shape": [4], "dtype": "int64", "high": 7}]),
    }),
    "transformer": st.fixed_dictionaries({
        "kind": st.sampled_from(["encoder", "decoder"]), "width": st.sampled_from([4, 8]),
        "heads": st.sampled_from([1, 2, 3]), "depth": st.integers(1, 3), "norm": st.sampled_from(["pre", "post"]),
        "dropout": st.sampled_from([0, 0.5]),
        "input": st.sampled_from([{"shape": [4, 3]}, {"shape": [4], "dtype": "int64"}]),
    }),
}  # fmt: skip


@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), preset=st.sampled_from(sorted(SMALL)))
def test_random_arguments_are_refused_by_name_or_give_a_network_that_runs(data: st.DataObject, preset: str) -> None:
    arguments = data.draw(SMALL[preset])
    try:
        spec = expanded(preset=preset, **{key: value for key, value in arguments.items() if value is not None})
    except ProblemError as problem:
        refused = problem
    else:
        model = build(spec, seed=0, device="meta")
        dtype = torch.int64 if spec.input.holds_tokens else torch.float32
        output = model(torch.zeros((2, *spec.input.shape), dtype=dtype, device="meta"))
        assert tuple(output.shape[1:]) == spec.plan.output_shape
        return
    assert all(error.pointer.split("/")[1] in arguments or error.pointer == "/preset" for error in refused.errors)
