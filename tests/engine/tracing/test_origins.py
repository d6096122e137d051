"""Tensors that count as data: copied, drawn or stored inputs, but not weights that resemble data."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.forward import ForwardRecorder
from gradinspect.report.words.headline import headline
from tests.support.networks.inspected import inspect, random, scripted

SAMPLES = 12
X, CLASSES = random(SAMPLES, 8, dtype=torch.float32), torch.arange(SAMPLES) % 3
THREE_LINEAR = [("first", 0, "Linear"), ("second", 0, "Linear"), ("head", 0, "Linear")]


def rows(report: Report) -> list[tuple[str, int, str]]:
    return [(row.name, row.call, row.kind) for row in report.layers]


def rows_of(model: nn.Module, x: torch.Tensor = X) -> list[tuple[str, int, str]]:
    return rows(inspect(model, x, CLASSES))


class Net(nn.Module):
    """Three linear layers behind a function that makes their input from the model's."""

    def __init__(self, prepare: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 10), nn.Linear(10, 10), nn.Linear(10, 3)
        self.register_buffer("stored", random(SAMPLES, 16, dtype=torch.float32))
        self.attribute = random(1, 16, dtype=torch.float32)
        self.scale = nn.Parameter(torch.ones(16))
        self.prepare = prepare

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.head(self.second(self.first(self.prepare(self, x)).relu()).relu())
        return out


def written_slice(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    buffer = torch.zeros(len(x), 16)
    buffer[:, :8] = x
    return buffer


def copied_sample_by_sample(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    batched = x[0].new_full((len(x), 16), 0.5)
    for sample, target in zip(x, batched, strict=True):
        target[:8].copy_(sample)
    return batched


def written_into_a_detached_view(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    buffer = torch.zeros(len(x), 16)
    buffer.detach()[:, :8].add_(x)
    return buffer


def written_by_index(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x), 16).index_copy_(1, torch.arange(8), x)


def padded_sequence(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([row.repeat(2) for row in x], batch_first=True)


INPUTS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "written into a slice": written_slice,
    "copied sample by sample": copied_sample_by_sample,
    "written into a detached view": written_into_a_detached_view,
    "written by index": written_by_index,
    "a padded sequence": padded_sequence,
    "drawn": lambda _, x: torch.randn(len(x), 16),
    "drawn in place": lambda _, x: x.new_empty(len(x), 16).uniform_(),
    "drawn with another number of rows": lambda *_: torch.randn(5, 16)[torch.arange(SAMPLES) % 5],
    "noise that is scaled and shifted": lambda _, x: 0.5 * torch.rand(len(x), 16) - 1,
    "a buffer": lambda model, _: model.get_buffer("stored"),
    "a stored tensor": lambda model, x: cast("torch.Tensor", model.attribute).expand(len(x), -1),
    "a parameter": lambda model, x: model.get_parameter("scale").expand(len(x), -1),
    "a coordinate grid": lambda _, x: torch.linspace(-1, 1, len(x)).unsqueeze(1) * torch.arange(16.0),
    "NumPy's": lambda _, x: torch.from_numpy(x.numpy()).repeat(1, 2),
    "a copy of NumPy's": lambda _, x: torch.from_numpy(x.numpy().copy()).repeat(1, 2),
    "a list's": lambda _, x: torch.tensor(x.tolist()).repeat(1, 2),
    "one hot of drawn classes": lambda _, x: functional.one_hot(torch.randint(16, (len(x), 1))[:, 0], 16).float(),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_layer_has_a_row_wherever_its_input_was_made(name: str) -> None:
    assert rows_of(Net(INPUTS[name])) == THREE_LINEAR


def test_a_gain_on_noise_is_a_row_and_the_layers_behind_it_are_too() -> None:
    model = Net(lambda own, x: torch.randn(len(x), 16) * own.get_parameter("scale"))
    assert rows_of(model) == [("scale", 0, "mul"), *THREE_LINEAR]


class ScriptedInputs(nn.Module):
    """Three linear layers whose input a TorchScript method makes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 10), nn.Linear(10, 10), nn.Linear(10, 3)
        self.stored = nn.Buffer(random(SAMPLES, 16, dtype=torch.float32))
        self.source = source

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        if self.source == "written":
            made = torch.zeros(x.size(0), 16)
            made[:, 8:] = x
        elif self.source == "drawn":
            made = torch.randn(x.size(0), 16)
        else:
            made = self.stored
        out: torch.Tensor = self.head(self.second(self.first(made).relu()).relu())
        return out


@pytest.mark.parametrize("source", ["written", "drawn", "stored"])
def test_a_scripted_layer_has_a_row_wherever_its_input_was_made(source: str) -> None:
    assert rows_of(scripted(ScriptedInputs(source))) == THREE_LINEAR


def test_a_convolution_takes_images_that_were_copied_into_a_batch() -> None:
    def batched(images: torch.Tensor) -> torch.Tensor:
        made = images.new_zeros(len(images), 3, 8, 8)
        for image, padded in zip(images, made, strict=True):
            padded[:, :6, :6].copy_(image)
        return made

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            out: torch.Tensor = self.head(self.norm(self.conv(batched(images))).relu().flatten(1))
            return out

    images = random(SAMPLES, 3, 6, 6, dtype=torch.float32)
    assert [name for name, _, _ in rows_of(Detector(), images)] == ["conv", "norm", "head"]


class Weighted(nn.Module):
    """A layer whose weight a function makes of the parameters, and a head."""

    def __init__(self, weight: Callable[[nn.Module], torch.Tensor]) -> None:
        super().__init__()
        self.a = nn.Parameter(random(SAMPLES, 8, dtype=torch.float32))
        self.b = nn.Parameter(random(8, 8, seed=1, dtype=torch.float32))
        self.maker = nn.Linear(4, SAMPLES * 8)
        self.register_buffer("constant", random(SAMPLES, SAMPLES, dtype=torch.float32))
        self.register_buffer("code", random(4, dtype=torch.float32))
        self.code_parameter = nn.Parameter(random(4, dtype=torch.float32))
        self.head = nn.Linear(SAMPLES, 3)
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.head(functional.linear(x, self.weight(self)).relu())
        return out


def block_matrix(model: nn.Module) -> torch.Tensor:
    made = torch.zeros(SAMPLES, 8)
    made[:6, :4] = model.get_parameter("a")[:6, :4]
    made[6:, 4:] = model.get_parameter("b")[:6, 4:]
    return made


# The batch has as many samples as the weight has rows: shapes cannot tell the two apart.
WEIGHTS: dict[str, tuple[Callable[[nn.Module], torch.Tensor], set[str]]] = {
    "a product": (lambda m: m.get_parameter("a") @ m.get_parameter("b"), {"a", "b"}),
    "mean and noise": (lambda m: m.get_parameter("a") + 0.1 * torch.randn(SAMPLES, 8), {"a"}),
    "a mask": (lambda m: m.get_parameter("a") * (torch.rand(SAMPLES, 8) > 0.5), {"a"}),
    "dropped connections": (lambda m: functional.dropout(m.get_parameter("a")), {"a"}),
    "a constant's product": (lambda m: m.get_buffer("constant") @ m.get_parameter("a"), {"a"}),
    "a norm": (lambda m: m.get_parameter("a") / m.get_parameter("a").mv(m.get_parameter("b")[0]).norm(), {"a", "b"}),
    "written blocks": (block_matrix, {"a", "b"}),
    "made by a layer of a buffer": (
        lambda m: m.get_submodule("maker")(m.get_buffer("code")).view(SAMPLES, 8), {"maker.weight", "maker.bias"},
    ),
    "made by a layer of a parameter": (
        lambda m: m.get_submodule("maker")(m.get_parameter("code_parameter")).view(SAMPLES, 8),
        {"maker.weight", "maker.bias", "code_parameter"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_made_of_parameters_is_no_data(name: str) -> None:
    make, entries = WEIGHTS[name]
    report = inspect(Weighted(make), X, CLASSES)
    assert len(report.layers) == 2
    assert set(report.layers[0].parameters) == entries
    assert report.layers[1].name == "head"


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_under_spectral_norm_belongs_to_its_layer(bias: bool) -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6, bias=bias))
    report = inspect(nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 3)), X, CLASSES)
    assert rows(report) == [("0", 0, "Linear"), ("2", 0, "Linear")]
    assert "0.parametrizations.weight.original" in report.layers[0].parameters


def test_theory_does_not_take_a_parameter_for_the_weight_computed_from_it() -> None:
    plain = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    masked = nn.Sequential(plain[0], nn.ReLU(), Weighted(lambda m: m.get_parameter("a")[:, :6] * 0.1))
    assert inspect(plain, X, CLASSES).layers[0].predicted_chi1 is not None
    assert inspect(masked, X, CLASSES).layers[0].predicted_chi1 is None


def test_a_buffer_that_the_forward_pass_writes_carries_no_mark_afterwards() -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(8))
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            self.get_buffer("mean").mul_(0.9).add_(x.mean(0))
            out: torch.Tensor = self.head(x - self.get_buffer("mean"))
            return out

    model = Running()
    with ForwardRecorder(ParameterIndex(model), [X]):
        model(X)
    assert not vars(model.get_buffer("mean"))


def test_a_parameter_that_the_forward_pass_changes_remains_a_parameter() -> None:
    report = inspect(nn.Sequential(nn.Embedding(9, 8, max_norm=0.1), nn.Linear(8, 3)), torch.arange(SAMPLES) % 9)
    again = inspect(nn.Sequential(nn.Embedding(9, 8, max_norm=0.1), nn.Linear(8, 3)), torch.arange(SAMPLES) % 9)
    assert rows(report) == rows(again) == [("0", 0, "Embedding"), ("1", 0, "Linear")]


def test_a_model_whose_parameters_meet_nothing_says_that_no_layer_call_was_recognised() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(SAMPLES, 3))

        def forward(self, _: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            return self.logits * 1.0

    report = inspect(Bare(), X, CLASSES, trial="off")
    assert report.layers == ()
    assert report.depth_decay is not None
    assert report.depth_decay.reason == "no layer call was recognised"
    assert "o layer call was recognised" in headline(report)
