"""Gradient and weight of each group."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.support.networks.probed import classes, measured, mlp, normal, section_input


class Lookup(nn.Module):
    """An embedding of which a batch reads some rows."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 4, sparse=sparse, dtype=torch.float64)
        self.head = nn.Linear(4, 3, dtype=torch.float64)
        with torch.no_grad():
            self.tokens.weight.copy_(normal(50, 4))
            self.head.weight.copy_(normal(3, 4, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(torch.tanh(self.tokens(x)))
        return output


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_parts_of_the_batch_add_up_to_its_gradient() -> None:
    model = mlp(4, 6, 6, 6, 3)
    x, y = normal(130, 4), classes(3, 130)  # 130 samples in four parts: 32, 33, 32, 33
    found = measured(section_input(model, x, y))
    nn.functional.cross_entropy(model(x), y).backward()
    for group in found:
        for entry in group.group.entries:
            # Sums of at most 130 products in another order: n·2⁻⁵³ each, far under 1e-12.
            torch.testing.assert_close(group.gradient[entry], entry.tensor.grad, rtol=1e-12, atol=1e-15)
        norms = [float(gradient(entry.tensor).norm()) for entry in group.group.entries]
        assert group.grad_norm == pytest.approx(math.hypot(*norms), rel=1e-12)


def test_the_variation_is_that_of_the_parts_norms() -> None:
    model = mlp(4, 6, 6, 6, 3)
    x, y = normal(128, 4), classes(3, 128)
    found = measured(section_input(model, x, y))
    norms = []
    for part in range(4):
        model.zero_grad()
        rows = slice(32 * part, 32 * part + 32)
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        norms.append(math.hypot(*(float(gradient(p).norm()) for p in model[0].parameters())))
    spread = torch.tensor(norms, dtype=torch.float64)
    assert found[0].cv == pytest.approx(float(spread.std() / spread.mean()), rel=1e-9)


def test_equal_parts_do_not_vary() -> None:
    x, y = normal(32, 4).repeat(4, 1), classes(3, 32).repeat(4)
    found = measured(section_input(mlp(4, 6, 6, 6, 3), x, y))
    assert [group.cv for group in found] == [pytest.approx(0.0, abs=1e-12)] * 4


def test_a_batch_too_small_for_parts_has_no_variation() -> None:
    assert [group.cv for group in measured(section_input(mlp(4, 6, 3), normal(40, 4), classes(3, 40)))] == [None, None]


@pytest.mark.parametrize("sparse", [True, False])
def test_an_embedding_is_measured_over_the_rows_that_the_batch_read(sparse: bool) -> None:
    model = Lookup(sparse=sparse)
    tokens = torch.tensor([3, 3, 11, 40])
    tokens_group, _ = measured(section_input(model, tokens, classes(3, 4)))
    rows = model.tokens.weight.detach()[[3, 11, 40]]
    assert tokens_group.weight_norm == pytest.approx(float(rows.norm()), rel=1e-12)
    assert tokens_group.grad_rms == pytest.approx(tokens_group.grad_norm / math.sqrt(3 * 4), rel=1e-12)


def test_a_zero_gradient_and_an_unused_parameter_have_no_gradient() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.off, self.on, self.unused = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.on(x) + 0.0 * self.off(x)
            return output

    found = measured(section_input(Net(), normal(8, 4, dtype=torch.float32), classes(3, 8)))
    assert [group.has_gradient for group in found] == [False, True, False]


def test_a_weight_that_is_not_finite_is_distinguished_from_the_gradients_that_it_spoils() -> None:
    model = mlp(4, 6, 3)
    with torch.no_grad():
        model.get_parameter("2.bias")[0] = math.nan
    first, second = measured(section_input(model, normal(8, 4), classes(3, 8)))
    assert (first.broken_weight, first.broken_gradient) == (None, "0.weight")
    assert (second.broken_weight, second.broken_gradient) == ("2.bias", "2.weight")


def test_measuring_changes_no_gradient() -> None:
    model = mlp(4, 6, 3)
    model.get_parameter("0.weight").grad = torch.ones_like(model.get_parameter("0.weight"))
    measured(section_input(model, normal(8, 4), classes(3, 8)))
    assert bool((gradient(model.get_parameter("0.weight")) == 1).all())
    assert model.get_parameter("2.weight").grad is None
