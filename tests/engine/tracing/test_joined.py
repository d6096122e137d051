"""Nonlinearities behind sums, parts, products and concatenations belong to the layers that feed them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from tests.support.networks.inspected import inspect, layer, random, traced

X, CLASSES = random(64, 16, dtype=torch.float32), torch.arange(64) % 3


class Two(nn.Module):
    """Two linear layers, a function that joins them, and a head."""

    def __init__(self, join: Callable[[nn.Module, torch.Tensor], torch.Tensor], width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(width, 3)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.head(self.join(self, x))
        return out


def a(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model.get_submodule("a")(x)
    return out


def b(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = model.get_submodule("b")(x)
    return out


def halves(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return a(model, x).chunk(2, -1)


JOINS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], torch.Tensor], int, tuple[str, ...]]] = {
    "a sum": (lambda m, x: functional.relu(a(m, x) + b(m, x)), 32, ("a", "b")),
    "a sum in place": (lambda m, x: a(m, x).add_(b(m, x)).relu_(), 32, ("a", "b")),
    "a difference": (lambda m, x: functional.relu(a(m, x) - 0.01 * b(m, x)), 32, ("a", "b")),
    "a concatenation": (lambda m, x: functional.relu(torch.cat([a(m, x), b(m, x)], -1)), 64, ("a", "b")),
    "half of one": (lambda m, x: functional.relu(halves(m, x)[0]) * halves(m, x)[1], 16, ("a",)),
    "a slice": (lambda m, x: functional.relu(a(m, x)[:, :16]), 16, ("a",)),
    "dropout": (lambda m, x: functional.relu(functional.dropout(a(m, x), 0.1)), 32, ("a",)),
}


def rules(report: Report) -> dict[str, tuple[str, ...]]:
    return {finding.rule: finding.layers for finding in report.findings if finding.severity != "info"}


@pytest.mark.parametrize("name", JOINS)
def test_units_that_are_dead_behind_a_join_are_found_at_the_layers_that_feed_it(name: str) -> None:
    join, width, feeding = JOINS[name]
    model = Two(join, width)
    with torch.no_grad():
        model.a.bias[:24] = -20.0
        model.b.bias[:24] = -20.0 if name == "a concatenation" else 0.0
    report = inspect(model, X, CLASSES)
    assert set(rules(report)["dead_units"]) == set(feeding)
    for each in feeding:
        row = layer(report, each)
        assert (row.nonlinearity, row.joined_nonlinearity) == (None, "relu")
        assert row.dead_unit_fraction is not None
        assert row.dead_unit_fraction >= 0.7


@pytest.mark.parametrize("name", JOINS)
def test_units_behind_a_join_that_are_alive_raise_no_alarm(name: str) -> None:
    join, width, _ = JOINS[name]
    assert "dead_units" not in rules(inspect(Two(join, width), X, CLASSES))


def test_one_dead_summand_that_the_other_revives_raises_no_alarm() -> None:
    model = Two(lambda m, x: functional.relu(a(m, x) + b(m, x)))
    with torch.no_grad():
        model.a.bias[:24] = -20.0
        model.b.bias[:24] = 20.0
    assert "dead_units" not in rules(inspect(model, X, CLASSES))


def gated(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, value = halves(model, x)
    return torch.sigmoid(gate) * torch.tanh(value)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: traced(model, X)])
@pytest.mark.parametrize(("scale", "is_saturated"), [(1.0, False), (100.0, True)])
def test_packed_gates_are_saturated_where_their_own_halves_are(
    scale: float, is_saturated: bool, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model = Two(gated, 16)
    with torch.no_grad():
        model.a.weight.mul_(scale)
    report = inspect(wrap(model), X, CLASSES)
    row = layer(report, "a")
    assert row.joined_nonlinearity == "sigmoid, tanh"
    assert ("saturated_activation" in rules(report)) == is_saturated
    gate, value = model.a(X).detach().chunk(2, -1)
    slopes = [gate.sigmoid() * (1 - gate.sigmoid()) / 0.25, 1 - value.tanh().square()]
    expected = float(torch.cat([slope.flatten() < 0.05 for slope in slopes]).float().mean())
    assert row.saturated_fraction == pytest.approx(expected, abs=1e-3)


def test_the_relu_behind_a_shortcut_belongs_to_the_branch_and_not_to_the_block_before() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = (
                nn.Conv2d(3, 8, 3, padding=1),
                nn.Conv2d(8, 8, 3, padding=1),
                nn.BatchNorm2d(8),
            )
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            h = self.stem(x).relu()
            out: torch.Tensor = self.head((self.norm(self.conv(h)) + h).relu().mean((2, 3)))
            return out

    model = Residual()
    with torch.no_grad():
        model.norm.bias[:6] = -50.0
    report = inspect(model, random(64, 3, 5, 5, dtype=torch.float32), CLASSES)
    assert layer(report, "norm").joined_nonlinearity == "relu"
    assert layer(report, "norm").dead_unit_fraction == 0.75
    assert layer(report, "stem").joined_nonlinearity is None
    assert rules(report)["dead_units"] == ("norm",)
