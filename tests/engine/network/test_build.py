"""Networks built from specs: every layer type, eager, scripted and traced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.jit._trace import TracerWarning
from torch.nn import functional

import tests.support.networks.layer_specimens as specimens
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.network.build import build, load_weights
from gradinspect.engine.network.single_tensor import (
    GRU,
    LSTM,
    RNN,
    MultiheadAttention,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from gradinspect.intake import check_torchscript


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    """Ignore torch's warnings about TorchScript, which is deprecated upstream and supported here, and slow kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)  # torch's own norms branch on their input's shape
        warnings.filterwarnings("ignore", message="LSTM with projections")
        warnings.filterwarnings("ignore", message="Using padding='same'")
        yield


def made(document: dict[str, Any], **options: Any) -> nn.Module:
    """Build the model of a spec."""
    return build(from_python(ModelSpec, document), seed=3, **options)


def batch(document: dict[str, Any]) -> torch.Tensor:
    """Draw three samples for a spec."""
    shape = (3, *document["input"]["shape"])
    draws = torch.Generator().manual_seed(0)
    if document["input"]["dtype"] == "int64":
        return torch.randint(0, 7, shape, generator=draws)
    return torch.randn(shape, generator=draws)


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Save and load a model, as an upload does."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    check_torchscript(file)  # uploads may contain what our own layers compile to
    file.seek(0)
    loaded: torch.jit.ScriptModule = torch.jit.load(file)
    return loaded


def gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the output, and the gradients of its sum of squares."""
    torch.manual_seed(1)
    output = model(x)
    if output.requires_grad:
        output.square().sum().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("document", specimens.EVERY_LAYER, ids=specimens.label)
def test_every_layer_gives_the_same_output_and_gradients_eager_scripted_and_traced(document: dict[str, Any]) -> None:
    model, x = made(document), batch(document)
    output, expected = gradients(model, x)
    assert set(expected) == {name for name, _ in model.named_parameters()}
    assert tuple(output.shape) == (3, *from_python(ModelSpec, document).plan.output_shape)
    for other in (torch.jit.script(model), torch.jit.trace(model, x, check_trace=False)):
        found, grads = gradients(reloaded(other), x)
        torch.testing.assert_close(found, output)
        assert set(grads) == set(expected)
        for name, gradient in grads.items():
            torch.testing.assert_close(gradient, expected[name], msg=name)


RECURRENT = [(RNN, nn.RNN), (GRU, nn.GRU), (LSTM, nn.LSTM)]


@pytest.mark.parametrize(("ours", "theirs"), RECURRENT)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_layer_equals_torchs_and_returns_all_steps_or_the_last_state(
    ours: Any, theirs: Any, bidirectional: bool
) -> None:
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    arguments = {"num_layers": 2, "bidirectional": bidirectional}
    torch.manual_seed(0)
    reference = theirs(4, 6, batch_first=True, **arguments)
    steps, state = reference(x)
    final = state[0] if isinstance(state, tuple) else state
    for output, expected in (
        ("sequence", steps),
        ("last", torch.cat([final[-2], final[-1]], 1) if bidirectional else final[-1]),
    ):
        torch.manual_seed(0)
        layer = ours(4, 6, output=output, **arguments)
        assert list(layer.state_dict()) == list(reference.state_dict())
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}])
def test_attention_equals_torchs_with_and_without_a_mask(causal: bool, extra: dict[str, Any]) -> None:
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(8, 2, batch_first=True, **extra)
    torch.manual_seed(0)
    layer = MultiheadAttention(8, 2, causal=causal, **extra)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = reference(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(layer(x), expected)
    assert list(layer.state_dict()) == list(reference.state_dict())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_equals_torchs_with_and_without_a_mask(causal: bool, norm_first: bool) -> None:
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"dim_feedforward": 16, "dropout": 0.0, "norm_first": norm_first}
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, batch_first=True, **arguments)
    reference = nn.TransformerEncoder(block, 2, nn.LayerNorm(8), enable_nested_tensor=False)
    torch.manual_seed(0)
    single = TransformerEncoderLayer(8, 2, causal=causal, **arguments)
    torch.manual_seed(0)
    stacked = TransformerEncoder(
        {"d_model": 8, "nhead": 2, "causal": causal, **arguments},
        2,
        output="last",
        norm=("LayerNorm", {"normalized_shape": 8}),
    )
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(single(x), block(x, src_mask=mask))
    torch.testing.assert_close(stacked(x), reference(x, mask=mask)[:, -1])
    assert list(stacked.state_dict()) == list(reference.state_dict())


def test_a_causal_layer_does_not_depend_on_later_positions() -> None:
    layer = MultiheadAttention(8, 2, causal=True)
    x = torch.randn(1, 5, 8)
    later = x.clone()
    later[:, 3:] += 1
    torch.testing.assert_close(layer(x)[:, :3], layer(later)[:, :3], rtol=0, atol=0)
    assert not torch.equal(layer(x)[:, 3:], layer(later)[:, 3:])


def test_building_depends_on_the_seed_and_not_on_the_global_random_state() -> None:
    document = specimens.spec([4], {"type": "Linear", "out_features": 3})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = made(document), made(document)
    assert torch.equal(torch.get_rng_state(), before)
    other = build(from_python(ModelSpec, document), seed=4)
    assert torch.equal(first.state_dict()["0.weight"], again.state_dict()["0.weight"])
    assert not torch.equal(first.state_dict()["0.weight"], other.state_dict()["0.weight"])


def test_every_dtype_has_the_same_draws() -> None:
    document = specimens.spec([4], {"type": "Linear", "out_features": 3})
    wide, narrow = made(document, dtype=torch.float64), made(document, dtype=torch.bfloat16)
    single = made(document).state_dict()["0.weight"]
    assert torch.equal(wide.state_dict()["0.weight"], single.double())
    assert torch.equal(narrow.state_dict()["0.weight"], single.bfloat16())


def test_a_tied_weight_is_one_tensor_and_a_frozen_layer_requires_no_gradient() -> None:
    model = made(
        specimens.spec(
            [5], {"type": "Embedding", "num_embeddings": 7, "embedding_dim": 4, "name": "tokens"},
            {"type": "Sequential", "frozen": True, "layers": [{"type": "Linear", "out_features": 4}]},
            {"type": "Linear", "out_features": 7, "bias": False, "name": "head", "tie": "tokens"}, tokens=True,
        )
    )  # fmt: skip
    weights = dict(model.named_parameters(remove_duplicate=False))
    assert weights["head.weight"] is weights["tokens.weight"]
    assert not weights["1.0.weight"].requires_grad
    assert not weights["1.0.bias"].requires_grad
    assert weights["head.weight"].requires_grad


def test_the_innermost_init_applies_and_not_to_normalisation() -> None:
    model = made(
        specimens.spec(
            [6],
            {"type": "Linear", "out_features": 6},
            {"type": "LayerNorm"},
            {"type": "Linear", "out_features": 6, "init": {"weight": {"name": "eye_"}}},
            init={"weight": {"name": "constant_", "val": 0.25}, "bias": {"name": "ones_"}},
        )
    ).state_dict()
    assert torch.equal(model["0.weight"], torch.full((6, 6), 0.25))
    assert torch.equal(model["0.bias"], torch.ones(6))
    assert torch.equal(model["1.bias"], torch.zeros(6))
    assert torch.equal(model["2.weight"], torch.eye(6))
    assert torch.equal(model["2.bias"], torch.ones(6))


def test_the_padding_row_of_an_embedding_stays_zero_whatever_its_init() -> None:
    weight = made(
        specimens.spec(
            [5], {"type": "Embedding", "num_embeddings": 7, "embedding_dim": 4, "padding_idx": 2}, tokens=True,
            init={"weight": {"name": "constant_", "val": 0.5}},
        )
    ).state_dict()["0.weight"]  # fmt: skip
    assert weight.count_nonzero(1).tolist() == [4, 4, 0, 4, 4, 4, 4]


def test_residual_init_applies_only_to_weights_at_the_end_of_a_residual_branch() -> None:
    weights = made(
        specimens.spec(
            [5, 8], specimens.BLOCK,
            init={"weight": {"name": "constant_", "val": 0.5}, "residual": {"name": "constant_", "val": 0.125}},
        )
    ).state_dict()  # fmt: skip
    values = {name: float(tensor.unique()) for name, tensor in weights.items() if name.endswith("weight")}
    assert values == {
        "0.self_attn.in_proj_weight": 0.5, "0.self_attn.out_proj.weight": 0.125, "0.linear1.weight": 0.5,
        "0.linear2.weight": 0.125, "0.norm1.weight": 1.0, "0.norm2.weight": 1.0,
    }  # fmt: skip


def test_residual_and_concat_compute_their_definitions() -> None:
    x = torch.randn(3, 6)
    residual = made(
        specimens.spec([6], {"type": "Residual", "layers": [{"type": "Linear", "out_features": 6}], "scale": 0.5})
    )
    weights = residual.state_dict()
    expected = x + 0.5 * functional.linear(x, weights["0.0.weight"], weights["0.0.bias"])
    torch.testing.assert_close(residual(x), expected)
    concat = made(specimens.spec([6], {"type": "Concat", "branches": [[], [{"type": "Tanh"}]]}))
    assert torch.equal(concat(x), torch.cat([x, x.tanh()], 1))


def test_weights_are_loaded_by_name_and_an_error_names_the_wrong_tensor() -> None:
    from safetensors.torch import save

    document = specimens.spec([4], {"type": "Linear", "out_features": 3})
    model = made(document)
    load_weights(model, save({"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3)}))
    assert torch.equal(model(torch.ones(1, 4)), torch.full((1, 3), 4.0))
    for tensors, word in (
        ({"0.weight": torch.ones(4, 3), "0.bias": torch.zeros(3)}, "'0.weight' has shape [4, 3]"),
        ({"0.weight": torch.ones(3, 4)}, "missing are '0.bias'"),
        ({"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3), "b": torch.zeros(1)}, "unknown are 'b'"),
    ):
        with pytest.raises(InspectionError) as caught:
            load_weights(model, save(tensors))
        assert caught.value.code == "data_mismatch"
        assert word in caught.value.detail
