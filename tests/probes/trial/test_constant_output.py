"""Chance and floor of every loss, compared with closed forms and with many steps of plain descent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from gradinspect.contracts.request.request import Loss
from gradinspect.probes.trial.constant_output import chance_of_callable, chance_of_named, floor_of_named

CLASSES = torch.tensor([0, 0, 0, 1, 1, 4])
VALUES = torch.tensor([[0.0, 1.0], [2.0, -1.0], [4.0, 0.0], [9.0, 3.0]])
SHARES = torch.tensor([[0.2, 1.0], [0.4, 0.0], [0.9, 0.5], [0.1, 0.5]])

TARGETS: list[tuple[Loss, torch.Tensor, tuple[int, ...]]] = [
    ("cross_entropy", CLASSES, (6, 5)),
    ("mse", VALUES, (4, 2)),
    ("l1", VALUES, (4, 2)),
    ("huber", VALUES, (4, 2)),
    ("bce_with_logits", SHARES, (4, 2)),
]


def compute(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    match loss:
        case "cross_entropy":
            return functional.cross_entropy(output, target)
        case "mse":
            return functional.mse_loss(output, target)
        case "l1":
            return functional.l1_loss(output, target)
        case "huber":
            return functional.huber_loss(output, target)
        case _:
            return functional.binary_cross_entropy_with_logits(output, target)


def descend(loss: Loss, target: torch.Tensor, shape: tuple[int, ...]) -> float:
    """Find the best constant by many small steps."""
    vector = torch.zeros(shape[1], dtype=torch.float64, requires_grad=True)
    typed = target.double() if target.is_floating_point() else target
    best = math.inf
    for step in range(4000):
        value = compute(loss, vector.expand(shape), typed)
        best = min(best, float(value.detach()))
        (slope,) = torch.autograd.grad(value, vector)
        with torch.no_grad():
            vector -= (0.5 if loss != "l1" else 0.1 / (1 + step / 100)) * slope
    return best


@pytest.mark.parametrize(("loss", "target", "shape"), TARGETS, ids=[loss for loss, _, _ in TARGETS])
def test_chance_is_the_loss_of_the_best_constant_output(
    loss: Loss, target: torch.Tensor, shape: tuple[int, ...]
) -> None:
    chance = chance_of_named(loss, shape, target)
    assert chance == pytest.approx(descend(loss, target, shape), rel=2e-3)


@pytest.mark.parametrize(("loss", "target", "shape"), TARGETS, ids=[loss for loss, _, _ in TARGETS])
def test_a_callable_loss_has_the_chance_of_the_named_one(
    loss: Loss, target: torch.Tensor, shape: tuple[int, ...]
) -> None:
    found = chance_of_callable(lambda output, target: compute(loss, output, target), torch.randn(shape), target)
    assert found == pytest.approx(chance_of_named(loss, shape, target), rel=2e-2 if loss == "l1" else 1e-4)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_chance_of_a_callable_follows_its_unit(factor: float) -> None:
    def multiplied(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return factor * functional.cross_entropy(output, target)

    chance = chance_of_callable(multiplied, 3 * torch.randn(6, 5), CLASSES)
    assert chance == pytest.approx(factor * (chance_of_named("cross_entropy", (6, 5), CLASSES) or 0.0), rel=1e-4)


def test_chance_of_few_classes_among_many_is_the_entropy_of_those_that_occur() -> None:
    assert chance_of_named("cross_entropy", (8, 1000), torch.arange(8)) == pytest.approx(math.log(8))


def test_positions_of_a_sequence_share_one_constant() -> None:
    target = torch.tensor([[0, 1, 1], [1, 1, 1]])
    expected = -(math.log(1 / 6) + 5 * math.log(5 / 6)) / 6
    assert chance_of_named("cross_entropy", (2, 3, 4), target) == pytest.approx(expected)


def test_a_callable_of_several_outputs_gets_a_constant_for_each() -> None:
    def loss(output: Any, target: torch.Tensor) -> torch.Tensor:  # Any: a dict of tensors
        distance: torch.Tensor = functional.mse_loss(output["a"], target) + (output["b"] - 3.0).square().mean()
        return distance

    output = {"a": torch.randn(4, 2), "b": torch.randn(4)}
    assert chance_of_callable(loss, output, VALUES) == pytest.approx(chance_of_named("mse", (4, 2), VALUES))


def test_a_callable_that_a_constant_does_not_fit_has_no_chance() -> None:
    def refuses(_output: object, _target: object) -> torch.Tensor:
        raise ValueError("needs the model's own output")

    assert chance_of_callable(refuses, torch.randn(4, 2), VALUES) is None
    assert chance_of_callable(lambda output, _target: output.detach().sum(), torch.randn(4, 2), VALUES) is None


def test_floors_are_zero_but_for_probabilities() -> None:
    assert floor_of_named("cross_entropy", CLASSES) == 0.0
    assert floor_of_named("mse", VALUES) == 0.0
    assert floor_of_named("bce_with_logits", torch.tensor([[0.0, 1.0]])) == 0.0
    assert floor_of_named("bce_with_logits", torch.tensor([[0.5]])) == pytest.approx(math.log(2))
    assert floor_of_named("output_mean", VALUES) is None
