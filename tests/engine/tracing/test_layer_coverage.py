"""The rows of a model, for every kind of layer: called, wrapped, shared, frozen or unused in any way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Report
from tests.support.networks.inspected import as_job, inspect, layer, parameter, random, scripted, traced

FLAT = random(6, 8, dtype=torch.float32)
SEQUENCE = random(3, 4, 8, dtype=torch.float32)
IMAGES = random(4, 4, 6, 6, dtype=torch.float32)


class Calls(nn.Module):
    """Modules with a function that calls them."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.part = nn.ModuleList(parts)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Compute the output."""
        return self.function(self.part, *inputs)


def seen(model: nn.Module, *inputs: torch.Tensor, **options: Any) -> Report:
    return inspect(model, inputs, loss=options.pop("loss", "random_cotangent"), **options)


def calls(report: Report) -> list[tuple[str, int, str]]:
    return [(row.name, row.call, row.kind) for row in report.layers]


def agrees_with_autograd(model: nn.Module, *inputs: torch.Tensor) -> Report:
    """Inspect with the mean squared output as loss, and compare every parameter's gradient norm with autograd's."""

    def loss(output: torch.Tensor, _target: torch.Tensor | None = None) -> torch.Tensor:
        return output.square().mean()

    report = seen(model, *inputs, loss=loss)
    model.train()
    loss(model(*inputs)).backward()
    for name, tensor in model.named_parameters():
        row = parameter(report, name)
        if tensor.grad is None:
            assert row.grad_norm is None, name
        else:
            expected = float(tensor.grad.norm())
            # float32 sums in another order; gradients that are zero up to rounding are below 1e-7
            assert row.grad_norm == pytest.approx(expected, rel=1e-4, abs=1e-7), name
    return report


SINGLE: dict[str, tuple[nn.Module, torch.Tensor, tuple[int, ...]]] = {
    "Linear": (nn.Linear(8, 3), FLAT, (6, 3)),
    "Linear over a sequence": (nn.Linear(8, 3), SEQUENCE, (3, 4, 3)),
    "Linear without bias over a sequence": (nn.Linear(8, 3, bias=False), SEQUENCE, (3, 4, 3)),
    "Conv1d": (nn.Conv1d(4, 5, 3, padding="same"), SEQUENCE, (3, 5, 8)),
    "Conv2d": (nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1, padding_mode="reflect"), IMAGES, (4, 6, 3, 3)),
    "Conv3d": (nn.Conv3d(2, 3, 2), random(2, 2, 3, 4, 5, dtype=torch.float32), (2, 3, 2, 3, 4)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 5, 3, stride=2), SEQUENCE, (3, 5, 17)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1), IMAGES, (4, 2, 14, 14)),
    "ConvTranspose3d": (nn.ConvTranspose3d(2, 3, 2), random(2, 2, 3, 4, 5, dtype=torch.float32), (2, 3, 4, 5, 6)),
    "BatchNorm1d": (nn.BatchNorm1d(8), FLAT, (6, 8)),
    "BatchNorm2d": (nn.BatchNorm2d(4), IMAGES, (4, 4, 6, 6)),
    "BatchNorm3d": (nn.BatchNorm3d(2), random(2, 2, 3, 4, 5, dtype=torch.float32), (2, 2, 3, 4, 5)),
    "InstanceNorm2d": (nn.InstanceNorm2d(4, affine=True), IMAGES, (4, 4, 6, 6)),
    "GroupNorm": (nn.GroupNorm(2, 4), IMAGES, (4, 4, 6, 6)),
    "LayerNorm": (nn.LayerNorm([6, 6]), IMAGES, (4, 4, 6, 6)),
    "RMSNorm": (nn.RMSNorm(8), SEQUENCE, (3, 4, 8)),
    "Embedding": (nn.Embedding(10, 5), torch.arange(6).view(2, 3), (2, 3, 5)),
    "EmbeddingBag": (nn.EmbeddingBag(10, 5), torch.arange(6).view(2, 3), (2, 5)),
    "PReLU": (nn.PReLU(8), FLAT, (6, 8)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_layer_gives_one_row_with_its_name_kind_parameters_and_shape(name: str) -> None:
    module, inputs, shape = SINGLE[name]
    report = agrees_with_autograd(nn.Sequential(module), inputs)
    assert calls(report) == [("0", 0, name.split()[0])]
    assert report.layers[0].output_shape == shape
    assert set(report.layers[0].parameters) == {f"0.{key}" for key, _ in module.named_parameters()}


def test_a_bilinear_layer_takes_two_inputs() -> None:
    report = agrees_with_autograd(Calls(lambda part, x, y: part[0](x, y), nn.Bilinear(8, 8, 3)), FLAT, FLAT + 1)
    assert calls(report) == [("part.0", 0, "Bilinear")]


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, cell: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.cell = cell(8, 5, batch_first=True, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return out


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU])
def test_an_unrolled_recurrence_gives_one_row_for_each_time_step_whose_state_is_multiplied_by_the_weight(
    cell: Callable[..., nn.Module],
) -> None:
    report = agrees_with_autograd(Recurrent(cell), SEQUENCE)
    kind = cell.__name__
    # The state before the first of four steps is a constant; three steps remain, and one product with all inputs.
    assert calls(report) == [
        ("cell.weight_ih_l0", 0, kind), *(("cell.weight_hh_l0", step, kind) for step in range(3)), ("head", 0, "Linear")
    ]  # fmt: skip
    assert all(row.signal is not None for row in report.layers)


def test_a_fused_recurrence_reports_that_its_time_steps_are_hidden() -> None:
    report = agrees_with_autograd(Recurrent(nn.LSTM), SEQUENCE)
    assert calls(report) == [("cell", 0, "LSTM (time steps fused)"), ("head", 0, "Linear")]
    assert len(report.layers[0].parameters) == 4


def test_a_fused_recurrence_has_a_signal_when_only_its_last_state_is_used() -> None:
    model = Calls(lambda part, x: part[1](part[0](x)[1][0][-1]), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 2))
    assert agrees_with_autograd(model, SEQUENCE).layers[0].signal is not None


def test_each_layer_and_direction_of_a_recurrence_has_a_row() -> None:
    report = agrees_with_autograd(Recurrent(nn.LSTM, num_layers=2, bidirectional=True), SEQUENCE)
    assert [row.name for row in report.layers] == [
        "cell.weight_ih_l0", "cell.weight_ih_l0_reverse", "cell.weight_ih_l1", "cell.weight_ih_l1_reverse", "head",
    ]  # fmt: skip


def test_a_cell_called_in_a_loop_gives_a_row_for_each_call() -> None:
    def run(part: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[0], 5)
        for step in range(x.shape[1]):
            h, c = part[0](x[:, step], (h, c))
        return h

    report = agrees_with_autograd(Calls(run, nn.LSTMCell(8, 5)), SEQUENCE)
    assert sorted((row.name, row.call) for row in report.layers) == [
        *(("part.0.weight_hh", step) for step in range(3)), *(("part.0.weight_ih", step) for step in range(4))
    ]  # fmt: skip


def attend(part: nn.ModuleList, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = part[0](query, key, value)[0]
    return out


def test_packed_self_attention_is_one_projection_and_an_output() -> None:
    model = Calls(lambda part, x: attend(part, x, x, x), nn.MultiheadAttention(8, 2, batch_first=True))
    report = agrees_with_autograd(model, SEQUENCE)
    assert [(row.name, row.output_shape[-1]) for row in report.layers] == [("part.0", 24), ("part.0.out_proj", 8)]
    assert report.layers[0].parameters == ("part.0.in_proj_weight", "part.0.in_proj_bias")


def test_cross_attention_projects_query_key_and_value_in_separate_calls() -> None:
    memory = random(3, 6, 8, dtype=torch.float32, seed=1)
    report = agrees_with_autograd(
        Calls(attend, nn.MultiheadAttention(8, 2, batch_first=True)), SEQUENCE, memory, memory
    )
    assert len(report.layers) in (3, 4)  # torch may project key and value together
    assert report.layers[-1].name == "part.0.out_proj"


def test_separate_projections_are_named_after_their_weights() -> None:
    model = Calls(attend, nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True))
    inputs = (SEQUENCE, random(3, 6, 3, dtype=torch.float32), random(3, 6, 5, dtype=torch.float32))
    assert [row.name for row in agrees_with_autograd(model, *inputs).layers] == [
        "part.0.q_proj_weight", "part.0.k_proj_weight", "part.0.v_proj_weight", "part.0.out_proj",
    ]  # fmt: skip


ENCODER = ["self_attn", "self_attn.out_proj", "norm1", "linear1", "linear2", "norm2"]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_encoder_layer_shows_its_inner_layers(mode: str) -> None:
    report = seen(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), SEQUENCE, mode=mode)
    assert [row.name for row in report.layers] == ENCODER
    assert [row.output_shape for row in report.layers if row.kind == "LayerNorm"] == [(3, 4, 8)] * 2


def test_the_fast_path_of_a_frozen_encoder_layer_is_one_row_named_after_the_module() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).requires_grad_(False)
    report = seen(nn.Sequential(encoder, nn.Linear(8, 2)), SEQUENCE, mode="eval")
    assert calls(report) == [("0", 0, "TransformerEncoderLayer"), ("1", 0, "Linear")]
    assert len(report.layers[0].parameters) == 12
    assert {row.status for row in report.parameters[:12]} == {"frozen"}


def test_the_gain_of_a_residual_branch_is_relative_to_the_call_after_the_sum() -> None:
    def run(part: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        h = part[0](x)
        out: torch.Tensor = part[2](h + torch.relu(part[1](h)))
        return out

    report = agrees_with_autograd(Calls(run, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)), FLAT)
    first, branch, last = (layer(report, f"part.{index}") for index in range(3))
    assert first.signal is not None
    assert branch.signal is not None
    assert last.signal is not None
    assert first.backward_gain == pytest.approx((first.signal.norm or 0) / (branch.signal.norm or 1))
    assert branch.backward_gain == pytest.approx((branch.signal.norm or 0) / (last.signal.norm or 1))
    assert first.predicted_chi1 is None  # its output has two uses, so the theory of chains does not apply


def test_a_module_called_twice_gives_two_calls_and_one_gradient() -> None:
    report = agrees_with_autograd(
        Calls(lambda part, x: part[1](torch.relu(part[0](torch.relu(part[0](x))))), nn.Linear(8, 8), nn.Linear(8, 2)),
        FLAT,
    )
    assert [(row.name, row.call) for row in report.layers] == [("part.0", 0), ("part.0", 1), ("part.1", 0)]
    assert [row.name for row in report.parameters] == ["part.0.weight", "part.0.bias", "part.1.weight", "part.1.bias"]


class Tied(nn.Module):
    """An embedding that shares its weight with the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.head(torch.tanh(self.embed(tokens)))
        return out


@pytest.mark.parametrize("wrap", [lambda model: model, scripted])
def test_tied_weights_are_one_parameter_and_two_layers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    report = agrees_with_autograd(wrap(Tied()), torch.arange(6).view(2, 3)) if wrap is not scripted else seen(
        wrap(Tied()), torch.arange(6).view(2, 3)
    )  # fmt: skip
    assert calls(report) == [("embed", 0, "Embedding"), ("head", 0, "Linear")]
    assert [(row.name, row.aliases) for row in report.parameters] == [("embed.weight", ("head.weight",))]


def test_parametrised_weights_belong_to_the_module_that_uses_them() -> None:
    parametrised = nn.utils.parametrizations
    model = nn.Sequential(
        parametrised.weight_norm(nn.Linear(8, 8)), nn.ReLU(), parametrised.orthogonal(nn.Linear(8, 8))
    )
    report = agrees_with_autograd(model, FLAT)
    assert calls(report) == calls(seen(traced(model, FLAT), FLAT)) == [("0", 0, "Linear"), ("2", 0, "Linear")]
    assert {row.layer for row in report.parameters} == {"0", "2"}


class Root(nn.Module):
    """Parameters of the root module, used by functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(random(3, 8, dtype=torch.float32)), nn.Parameter(torch.zeros(3))
        self.scale = nn.Parameter(torch.ones(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return functional.linear(x, self.weight, self.bias).unsqueeze(1) + self.scale


def test_a_call_with_a_parameter_of_the_root_module_has_the_name_of_the_parameter() -> None:
    report = agrees_with_autograd(Root(), FLAT)
    assert [(row.name, row.parameters) for row in report.layers] == [
        ("weight", ("weight", "bias")), ("scale", ("scale",)),
    ]  # fmt: skip


def test_a_bias_and_a_gain_in_separate_operations_belong_to_the_call_before() -> None:
    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(random(3, 8, dtype=torch.float32)), nn.Parameter(torch.ones(3))
            self.gain = nn.Parameter(torch.full((3,), 2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            return (x @ self.weight.T + self.bias) * self.gain

    report = agrees_with_autograd(nn.Sequential(Pieces()), FLAT)
    assert [(row.name, row.parameters) for row in report.layers] == [("0", ("0.weight", "0.bias", "0.gain"))]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_keep_their_rows_and_gradients(reentrant: bool) -> None:
    def run(part: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = part[2](checkpoint(lambda y: torch.relu(part[1](y)), part[0](x), use_reentrant=reentrant))
        return out

    report = agrees_with_autograd(Calls(run, *(nn.Linear(8, 8) for _ in range(3))), FLAT)
    assert [row.name for row in report.layers] == ["part.0", "part.1", "part.2"]
    assert layer(report, "part.0").signal is not None
    if not reentrant:
        assert layer(report, "part.1").nonlinearity == "relu"


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_casts_are_not_layer_calls_and_gradients_are_not_scaled(frozen: bool) -> None:
    def run(part: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: torch.Tensor = part[1](torch.relu(part[0](x)))
        return out.float()

    model = Calls(run, nn.Linear(8, 8).requires_grad_(not frozen), nn.Linear(8, 3))
    report = agrees_with_autograd(model, FLAT)
    assert [(row.name, row.nonlinearity) for row in report.layers] == [("part.0", "relu"), ("part.1", None)]
    assert {row.dtype for row in report.parameters} == {"float32"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_in_another_precision_are_measured_in_that_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).to(dtype)
    report = seen(model, FLAT.to(dtype))
    assert report.environment.dtype == str(dtype).removeprefix("torch.")
    assert [row.name for row in report.layers] == ["0", "2", "3"]
    assert all(row.grad_norm for row in report.parameters)


OUTPUTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tuple": lambda y: (y, 1),
    "a list": lambda y: [y],
    "a dict with integers first": lambda y: {"ids": torch.ones(2, dtype=torch.int64), "logits": y},
    "something nested": lambda y: ([{"hidden": y}], y),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_loss_uses_the_first_float_tensor_that_a_model_returns(name: str) -> None:
    report = seen(Calls(lambda part, x: OUTPUTS[name](part[0](x)), nn.Linear(8, 3)), FLAT, loss="output_mean")
    # mean over 18 outputs: dL/db = 6/18 each of three
    assert parameter(report, "part.0.bias").grad_norm == pytest.approx(math.sqrt(3) / 3, rel=1e-6)


def test_several_inputs_reach_the_model() -> None:
    model = Calls(lambda part, x, y: part[0](x) * part[1](y), nn.Linear(8, 3), nn.Linear(4, 3))
    report = agrees_with_autograd(model, FLAT, random(6, 4, dtype=torch.float32))
    assert [row.name for row in report.layers] == ["part.0", "part.1"]


def test_a_nan_weight_is_reported_at_its_parameter() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0] = math.nan
    report = seen(model, FLAT)
    assert [row.nonfinite_count > 0 for row in report.layers] == [False, True, True]
    assert parameter(report, "1.weight").weight_nonfinite_count == 1
    assert (report.summary.loss, report.summary.total_grad_norm) == (None, None)
    gradients = sum(row.nan_count + row.inf_count for row in report.parameters)
    activations = sum(row.nonfinite_count for row in report.layers)
    assert gradients > 0
    assert report.summary.nonfinite_count == 1 + gradients + activations
    assert report.verdict == "fail"


def test_a_finite_model_has_no_non_finite_counts() -> None:
    assert seen(nn.Linear(8, 3), FLAT).summary.nonfinite_count == 0


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "no parameters": (lambda: nn.Sequential(nn.ReLU()), "no_gradient", "no parameters; add a layer that has some"),
    "all frozen": (lambda: nn.Linear(8, 3).requires_grad_(False), "no_gradient", "all 2 parameters have requires_grad"),
    "detached": (lambda: Calls(lambda part, x: part[0](x).detach(), nn.Linear(8, 3)), "no_gradient", "the detach()"),
    "integers": (
        lambda: Calls(lambda part, x: part[0](x).argmax(-1), nn.Linear(8, 3)), "data_mismatch", "returned torch.int64",
    ),
    "an object": (lambda: Calls(lambda *_: object(), nn.Linear(8, 3)), "data_mismatch", "returned object"),
    "another width": (lambda: nn.Linear(9, 3), "data_mismatch", "does not take inputs float32[6, 8]"),
    "inference mode": (
        lambda: Calls(torch.inference_mode()(lambda part, x: part[0](x)), nn.Linear(8, 3)), "no_gradient", "no_grad",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "invalid_model", "'0.weight' of a lazy module"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_measured_are_refused_with_the_reason(name: str) -> None:
    make, code, words = REFUSED[name]
    with pytest.raises(InspectionError) as caught:
        seen(make(), FLAT)
    assert caught.value.code == code
    assert words in caught.value.detail


def test_a_scalar_output_needs_a_loss_that_takes_one() -> None:
    model = Calls(lambda part, x: part[0](x).sum(), nn.Linear(8, 3))
    assert seen(model, FLAT, loss="output_mean").layers
    with pytest.raises(InspectionError, match="for which there is output_mean"):
        seen(model, FLAT, loss="cross_entropy")


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        if bool(x.sum() > 0):
            x = torch.relu(self.first(x))
        else:
            for _ in range(2):
                x = torch.tanh(self.second(x))
        out: torch.Tensor = self.head(x)
        return out


@pytest.mark.parametrize(("sign", "names"), [(1.0, ["first", "head"]), (-1.0, ["second", "second", "head"])])
def test_a_scripted_model_with_control_flow_has_the_layers_of_the_branch_taken(sign: float, names: list[str]) -> None:
    x = sign * torch.ones(6, 8)
    script = scripted(Branching())
    report = as_job(script, inputs={"x": x}, loss="random_cotangent")
    assert [row.name for row in report.layers] == names
    statuses = {row.name: row.status for row in report.parameters}
    assert statuses["second.weight" if sign > 0 else "first.weight"] == "unused"


def test_layers_before_the_first_trained_parameter_have_forward_values_only() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    first, second, _ = seen(model, FLAT).layers
    assert (first.signal, first.nonlinearity, first.backward_gain) == (None, "tanh", None)
    assert first.activation is not None
    assert second.signal is not None


def test_a_model_is_measured_although_the_caller_has_disabled_gradients() -> None:
    with torch.no_grad():
        assert parameter(seen(nn.Linear(8, 3), FLAT), "weight").status == "trained"


def test_dropout_between_a_layer_and_its_activation_belongs_to_neither() -> None:
    report = seen(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)), FLAT)
    assert [row.name for row in report.layers] == ["0", "3"]
    assert report.layers[0].predicted_chi1 is None


def test_a_concatenated_token_and_added_positions_are_separate_calls() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 4)
            self.start, self.places = nn.Parameter(torch.ones(1, 1, 8)), nn.Parameter(torch.ones(1, 9, 8))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            y = torch.cat([self.start.expand(tokens.shape[0], -1, -1), self.embed(tokens)], dim=1)
            out: torch.Tensor = self.head(y + self.places[:, : y.shape[1]])
            return out

    report = agrees_with_autograd(Tokens(), torch.arange(8).view(2, 4))
    assert [row.name for row in report.layers] == ["embed", "start", "places", "head"]
