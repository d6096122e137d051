"""Self-checks of a report: they pass on right numbers, fail on wrong ones, and say where they do not apply."""

from __future__ import annotations

import random as random_number
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.report import Measurements, Report, SelfCheck
from gradinspect.engine.arrays import statistics
from gradinspect.engine.checks import finite_differences, repeated_calls
from gradinspect.engine.checks.allowance import BARE_SHARE, LEAST_SECONDS, Allowance
from gradinspect.engine.tracing import ledger
from tests.support.networks.inspected import as_job, inspect, linear_chain, random, scripted, squared_error

X, Y = random(12, 6, dtype=torch.float32), torch.arange(12) % 3


def network(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def check(report: Report | Measurements, name: str) -> SelfCheck:
    return next(entry for entry in report.self_checks if entry.name == name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_right_gradients_pass_every_check(activation: type[nn.Module], dtype: torch.dtype) -> None:
    report = inspect(network(activation).to(dtype), X.to(dtype), Y)
    assert {entry.status for entry in report.self_checks} <= {"passed", "not_applicable"}
    assert check(report, "finite_differences").status == "passed"


class WrongDerivative(torch.autograd.Function):
    """tanh with a derivative that is 10 % too large."""

    @staticmethod
    def forward(context: Any, z: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(z)
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (y,) = context.saved_tensors
        output: torch.Tensor = 1.1 * gradient * (1 - y * y)
        return output


def test_a_wrong_derivative_in_the_model_fails_the_differences() -> None:
    class Wrong(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = WrongDerivative.apply(z)  # type: ignore[no-untyped-call]  # untyped in torch
            return out

    found = check(inspect(network(Wrong), X, Y), "finite_differences")
    assert found.status == "failed"
    assert found.value == pytest.approx(1 - 1 / 1.1, rel=1e-3)  # relative to the derivative that is too large


def test_a_wrong_norm_differs_from_the_float64_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    original = statistics.row_moments

    def inflated(values: Any) -> Any:
        return original(1.1 * values)

    monkeypatch.setattr(ledger, "row_moments", inflated)
    found = check(inspect(network(), X, Y), "gradients_in_float64")
    assert found.status == "failed"
    assert found.value == pytest.approx(0.1, rel=1e-2)


def test_a_gradient_of_rounding_errors_is_compared_with_the_size_of_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, affine=False))  # the bias has no effect
    assert check(inspect(model, X, Y), "gradients_in_float64").status == "passed"


def test_norms_are_not_compared_where_the_copy_draws_other_masks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), Noisy(), nn.Linear(64, 3))
    assert "gradients_in_float64" not in {entry.name for entry in inspect(model, X, Y).self_checks}


class Noisy(nn.Module):
    """Adds noise, whose float64 draws differ from those in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def test_coordinates_next_to_a_kink_are_skipped() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        # The difference crosses the kink, the derivative does not.
        model.get_parameter("0.weight").fill_(finite_differences.STEP / 3)
        model.get_parameter("2.weight").fill_(1e3)
    report = inspect(model, torch.ones(2, 1, dtype=torch.float64), loss=lambda out, _t: out.sum())
    assert check(report, "finite_differences").status in {"passed", "not_applicable"}


def test_models_too_large_or_too_slow_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_differences, "LARGEST_PARAMETERS", 10)
    large = check(inspect(network(), X, Y), "finite_differences")
    assert (large.status, "a float64 copy of 99 parameters" in large.detail) == ("not_applicable", True)
    monkeypatch.undo()
    monkeypatch.setattr(Allowance, "allows_seconds", lambda _self, _seconds: False)
    slow = check(inspect(network(), X, Y), "finite_differences")
    assert (slow.status, slow.detail) == ("not_applicable", "it would take longer than one pass")


def test_the_allowance_is_one_pass_or_25_ms() -> None:
    for pass_seconds, allowed in ((0.001, LEAST_SECONDS), (2.0, 2.0 * BARE_SHARE)):
        allowance = Allowance(pass_seconds)
        assert allowance.allows_seconds(0.9 * allowed)
        assert not allowance.allows_seconds(allowed)
    assert not Allowance(2.0).allows(1.0)


class Mixed(nn.Module):
    """Runs a function of two layers, a vector and the input."""

    def __init__(self, function: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function
        self.vector = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


class Reversal(torch.autograd.Function):
    """The identity, with the negative gradient."""

    @staticmethod
    def forward(_context: Any, z: torch.Tensor) -> torch.Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


class Rounding(torch.autograd.Function):
    """A step, with the gradient of the identity."""

    @staticmethod
    def forward(_context: Any, z: torch.Tensor) -> torch.Tensor:
        return torch.round(z)

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def apply(function: Any, z: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = function.apply(z)
    return output


def straight_through(model: Any, x: torch.Tensor) -> torch.Tensor:
    h = model.first(x)
    out: torch.Tensor = model.second(h + (torch.sign(h) - h).detach())
    return out


def fixed_point(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        z = x.new_zeros(len(x), 8)
        for _ in range(20):
            z = torch.tanh(z * model.vector / 2 + model.first(x))
    out: torch.Tensor = model.second(torch.tanh(z * model.vector / 2 + model.first(x)))
    return out


def partly_float32(model: Any, x: torch.Tensor) -> torch.Tensor:
    scale, h = torch.exp(-torch.exp(model.vector.float())), model.first(x)
    out: torch.Tensor = model.second(h * scale + h * scale**2)
    return out


INTENDED: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], str]] = {
    "straight-through": (straight_through, "uses detach()"),
    "data": (lambda m, x: m.second(torch.tanh(m.first(x)) * m.first(x).data), "uses .data"),
    "a step of its own": (lambda m, x: m.second(apply(Rounding, 3 * m.first(x))), "uses the custom function Rounding"),
    "a reversal": (lambda m, x: m.second(apply(Reversal, m.first(x).tanh())), "uses the custom function Reversal"),
    "a fixed point": (fixed_point, "uses no_grad()"),
}


@pytest.mark.parametrize("name", INTENDED)
def test_a_gradient_that_is_meant_to_differ_is_not_checked(name: str) -> None:
    function, words = INTENDED[name]
    found = check(inspect(Mixed(function), X, Y), "finite_differences")
    assert (found.status, words in found.detail) == ("not_applicable", True)


def test_a_part_in_float32_never_fails_the_differences() -> None:
    statuses = []
    for seed in range(6):
        model = Mixed(partly_float32)
        nn.init.normal_(model.vector, generator=torch.Generator().manual_seed(seed))
        statuses.append(check(inspect(model, X, Y), "finite_differences"))
    assert {found.status for found in statuses} <= {"passed", "not_applicable"}
    assert any("computes in float32" in found.detail for found in statuses)


def test_a_scripted_straight_through_estimator_is_not_checked() -> None:
    class Estimator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            out: torch.Tensor = self.second(h + (torch.sign(h) - h).detach())
            return out

    found = check(inspect(scripted(Estimator()), X, Y), "finite_differences")
    assert (found.status, "uses detach()" in found.detail) == ("not_applicable", True)


def test_a_model_of_a_graph_is_checked_on_its_whole_batch() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(torch.tanh(self.first(x))[neighbours])
            return out

    report = inspect(Graph(), (X, torch.arange(12).flip(0)), Y)
    assert check(report, "finite_differences").status == "passed"


class Divisible(nn.Module):
    """Takes twelve samples and no other number, and no float64 where that is forbidden."""

    def __init__(self, *, takes_float64: bool) -> None:
        super().__init__()
        self.layer, self.takes_float64 = nn.Linear(6, 3), takes_float64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x) == 12
        if x.dtype == torch.float64 and not self.takes_float64:
            raise ZeroDivisionError
        out: torch.Tensor = self.layer(x)
        return out


def test_a_check_takes_no_report_with_it_whatever_the_model_raises() -> None:
    assert check(inspect(Divisible(takes_float64=True), X, Y), "finite_differences").status == "passed"
    found = check(inspect(Divisible(takes_float64=False), X, Y), "finite_differences")
    assert (found.status, "ZeroDivisionError" in found.detail) == ("not_applicable", True)


def test_a_zero_gradient_is_compared_with_the_size_of_all_gradients() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.levels = nn.ModuleList(nn.Conv2d(channels, 8, 3, 2, 1) for channels in (3, 8, 8))
            self.head = nn.Conv2d(8, 5, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs = []
            for level in self.levels:
                x = torch.relu(level(x))
                outputs.append(self.head(x).mean((2, 3)))
            return torch.stack(outputs).sum(0)

    for seed in range(3):
        torch.manual_seed(seed)
        report = inspect(Pyramid(), torch.randn(8, 3, 16, 16), torch.arange(8) % 5)
        assert all(found.status != "failed" for found in report.self_checks)


def test_a_model_that_draws_outside_torch_does_not_fail() -> None:
    def noisy(model: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model.second(model.first(x)) * random_number.random()
        return out

    assert check(inspect(Mixed(noisy), X, Y), "finite_differences").status == "not_applicable"


def test_a_model_that_does_not_run_in_float64_is_not_checked() -> None:
    class Float32Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.linear(x.float())
            return out

    found = check(inspect(Float32Only(), X, Y), "finite_differences")
    assert (found.status, found.detail.startswith("the model does not run in float64")) == ("not_applicable", True)


def test_the_checks_do_not_change_the_model() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inspect(model, X, Y)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_scripted_model_has_the_same_gradients_in_every_call() -> None:
    report = as_job(scripted(network()), inputs={"x": X}, target=Y)
    assert check(report, "repeated_calls").status == "passed"
    assert check(report, "finite_differences").status in {"passed", "not_applicable"}


class Drifting(nn.Module):
    """A model that counts its calls in an attribute, which an inspection does not restore."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.calls: list[int] = [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[0] += 1
        output: torch.Tensor = self.linear(x) * float(self.calls[0])
        return output


def test_a_model_whose_gradients_change_between_calls_fails_its_check() -> None:
    found = check(inspect(scripted(Drifting()), X, Y), "repeated_calls")
    assert found.status == "failed"
    assert found.value is not None


def test_repeated_calls_of_eager_models_are_not_compared() -> None:
    assert repeated_calls.NAME not in {entry.name for entry in inspect(network(), X, Y).self_checks}


def test_the_balance_identity_fails_for_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [random(5, 5, seed=seed) for seed in range(3)]
    model, x, t = linear_chain(*weights, activation=nn.ReLU), random(7, 5, seed=8), random(7, 5, seed=9)
    assert check(inspect(model, x, t, loss=squared_error), "balance_identity").status == "passed"
    products = statistics.row_products
    monkeypatch.setattr(ledger, "row_products", lambda w, g: [p * (1 + 1e-3 * i) for i, p in enumerate(products(w, g))])
    found = check(inspect(model, x, t, loss=squared_error), "balance_identity")
    assert found.status == "failed"
    assert found.value is not None
    assert found.tolerance is not None
    assert found.value > found.tolerance


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(6, 3, bias=False)),
    ],
    ids=["sigmoid", "biases", "one layer"],
)
def test_the_balance_identity_applies_to_homogeneous_chains_only(model: nn.Module) -> None:
    assert check(inspect(model, X, Y), "balance_identity").status == "not_applicable"
