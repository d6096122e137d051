"""Self-checks of a report: they pass on right numbers, fail on wrong ones, and say where they do not apply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.report import Measurements, Report, SelfCheck
from gradinspect.engine.arrays import statistics
from gradinspect.engine.checks import finite_differences, repeated_calls
from gradinspect.engine.tracing import ledger
from tests.support.inspected import as_job, inspect, linear_chain, random, scripted, squared_error

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
    monkeypatch.setattr(finite_differences, "LONGEST_PASS_SECONDS", 0.0)
    slow = check(inspect(network(), X, Y), "finite_differences")
    assert (slow.status, "it may take two passes" in slow.detail) == ("not_applicable", True)


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
