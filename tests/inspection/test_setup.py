"""What a report says of the training step around a network: copies, registration, steps and normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.setup import Setup

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(32) % 3


def setup_of(model: nn.Module, *args: Any, **options: Any) -> Setup:
    setup = inspect(model, *args, **options).setup
    assert setup is not None
    return setup


def finding_of(rule: str, model: nn.Module, *args: Any, **options: Any) -> Finding | None:
    return next((each for each in inspect(model, *args, **options).findings if each.rule == rule), None)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


class Constant(nn.Module):
    """A recurrent layer whose weights are one number, with a random head."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 16, batch_first=True)
        self.head = nn.Linear(16, 3)
        for weight in self.cell.parameters():
            nn.init.constant_(weight, 0.1)
        nn.init.constant_(self.head.weight, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cell(x.view(32, 4, 4))[0][:, -1]) * torch.tensor([1.0, 2.0, 3.0])
        return out


def test_the_gates_of_a_constant_recurrent_layer_are_copies() -> None:
    rows = {row.parameter: row.share for row in setup_of(seeded(Constant), X, CLASSES).repeated_rows}
    # 4 gates of 16 rows: of the 63 rows after the first, the first of each other gate differs in its gradient.
    assert rows["cell.weight_ih_l0"] == pytest.approx(60 / 63)


def test_classes_without_a_sample_are_no_copies() -> None:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))
        nn.init.zeros_(net[2].get_parameter("weight"))
        nn.init.zeros_(net[2].get_parameter("bias"))
        return net

    assert not setup_of(seeded(build), X, CLASSES).repeated_rows


def test_dropout_breaks_the_symmetry_of_constant_weights() -> None:
    def build(rate: float) -> nn.Module:
        net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Dropout(rate), nn.Linear(8, 1))
        nn.init.constant_(net[0].get_parameter("weight"), 0.1)
        nn.init.zeros_(net[0].get_parameter("bias"))
        nn.init.constant_(net[3].get_parameter("weight"), 0.1)
        return net

    targets = torch.randn(32, 1)
    assert setup_of(build(0.0), X, targets, loss="mse").repeated_rows
    assert not setup_of(build(0.5), X, targets, loss="mse").repeated_rows


class Held(nn.Module):
    """Keeps a layer in an attribute of any kind."""

    def __init__(self, held: Any, layer: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.held = held
        self._layers = (lambda: layer,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._layers[0]()(torch.relu(self.first(x)))
        return out


@pytest.mark.parametrize(
    ("hold", "name"),
    [(lambda layer: [layer], "held[0].weight"), (lambda layer: {"a": [layer]}, "held['a'][0].weight")],
    ids=["in a list", "in a dict of lists"],
)
def test_a_layer_that_is_not_registered_is_named_by_its_attribute(hold: Callable[[nn.Module], Any], name: str) -> None:
    layer = nn.Linear(8, 3)
    setup = setup_of(Held(hold(layer), layer), X, CLASSES)
    assert setup.unregistered[0].name == name
    assert layer.weight.grad is None


def test_a_registered_layer_and_the_parameters_of_the_loss_are_not_listed() -> None:
    layer, of_loss = nn.Linear(8, 3), nn.Parameter(torch.ones(()))

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return of_loss * nn.functional.cross_entropy(output, target)

    setup = setup_of(Held(layer, layer), X, CLASSES, loss=loss)
    assert not setup.unregistered


def test_a_leaf_that_forward_makes_of_its_input_is_no_parameter() -> None:
    class Derivative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(self.layer(x)).sum(), x, create_graph=True)
            out: torch.Tensor = slope[:, :3] + self.layer(x)
            return out

    assert not setup_of(Derivative(), X, CLASSES).unregistered


@pytest.mark.parametrize(("eps", "is_finite"), [(1e-8, False), (1e-4, True)])
def test_adam_divides_by_zero_in_half_precision_where_its_eps_is_zero(eps: float, is_finite: bool) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)).half())
    adam = {"type": "adam", "lr": 1e-3, "eps": eps}
    found = finding_of("optimizer_step", net, X.half(), CLASSES, optimizer=adam)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, eps=eps)
    nn.functional.cross_entropy(net(X.half()).float(), CLASSES).backward()
    optimizer.step()
    assert all(bool(weight.isfinite().all()) for weight in net.parameters()) == is_finite
    assert (found is None) == is_finite
    if found is not None:
        assert found.remedy is not None
        assert found.remedy.arguments["optimizer"]["eps"] == 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_has_no_lost_step(value: float) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)))
    with torch.no_grad():
        net.get_parameter("2.weight")[0, 0] = value
    for optimizer in ({"type": "sgd", "lr": 0.1}, {"type": "adam", "lr": 1e-3}):
        report = inspect(net, X, CLASSES, optimizer=optimizer)
        assert not any(finding.rule == "optimizer_step" for finding in report.findings)


def test_a_step_under_half_a_unit_in_the_last_place_is_lost() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)).bfloat16())
    inputs = X.bfloat16()
    found = finding_of("optimizer_step", net, inputs, CLASSES, optimizer={"type": "adam", "lr": 1e-5})
    assert found is not None
    assert found.severity == "fail"
    assert finding_of("optimizer_step", net, inputs, CLASSES, optimizer={"type": "adam", "lr": 1e-2}) is None


def test_normalisations_over_one_element_and_over_one_sample_are_named() -> None:
    images = torch.randn(1, 3, 4, 4)
    net = nn.Sequential(nn.Conv2d(3, 8, 4), nn.GroupNorm(8, 8), nn.Flatten(), nn.Linear(8, 3))
    assert setup_of(net, images.repeat(2, 1, 1, 1), CLASSES[:2]).single_element_norms == ("1",)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 3))
    assert setup_of(net, images, CLASSES[:1]).single_sample_norms == ("1",)
    assert not setup_of(net, images.repeat(2, 1, 1, 1), CLASSES[:2]).single_sample_norms
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Flatten(), nn.Linear(32, 3))
    assert not setup_of(net, images, CLASSES[:1]).single_sample_norms


def test_statistics_that_were_never_updated_count_in_evaluation_alone() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    assert setup_of(net, X, CLASSES, mode="eval").fresh_statistics == ("1",)
    assert not setup_of(net, X, CLASSES).fresh_statistics
    net(X)
    assert not setup_of(net, X, CLASSES, mode="eval").fresh_statistics


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_operation_before_the_loss_is_located_in_eager_and_scripted_models() -> None:
    net = nn.Sequential(nn.Linear(16, 3), nn.Softmax(1))
    for model in (net, torch.jit.script(net)):
        found = finding_of("output_activation", model, X, CLASSES)
        assert found is not None
        assert found.remedy is not None
        assert found.remedy.arguments["module"] == "1"
        assert found.layers == ("1",)


def test_a_saturated_output_is_to_be_replaced_by_its_logits() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 1), nn.Sigmoid()))
    with torch.no_grad():
        net.get_parameter("0.bias").fill_(-20.0)

    def saturating(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.log(1 - output).mean() + 0 * target.sum()

    found = finding_of("saturated_activation", net, X, CLASSES, loss=saturating)
    assert found is not None
    assert found.remedy is not None
    assert "logsigmoid" in found.remedy.arguments["change"]


def test_binary_targets_of_minus_one_are_named_although_their_loss_has_no_minimum() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)))
    found = finding_of("output_activation", net, X, X[:, :1].sign(), loss="bce_with_logits", trial="auto")
    assert found is not None
    assert "has no minimum" in found.message


def test_a_frozen_output_layer_is_no_initialisation() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))
    with torch.no_grad():
        net.get_parameter("2.weight").mul_(100)
    assert finding_of("initial_loss", net, X, CLASSES) is not None
    net.get_submodule("2").requires_grad_(False)
    assert finding_of("initial_loss", net, X, CLASSES) is None
