"""The graph of layer calls: the trunk, branches, neighbours, what normalises a call, and recurrences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import LayerMeasurement
from tests.support.networks.inspected import inspect, output_sum, random


class Written(nn.Module):
    """A forward pass written in one line over layers by name."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.written = forward

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return self.written(self.layers, *inputs)


def linear() -> nn.Linear:
    return nn.Linear(8, 8, dtype=torch.float64)


def measured(model: nn.Module, *inputs: torch.Tensor) -> Report:
    return inspect(model, inputs, loss=output_sum)


def rows(report: Report) -> dict[str, LayerMeasurement]:
    return {row.name.removeprefix("layers."): row for row in report.layers}


def trunk(report: Report) -> list[str]:
    return [row.name.removeprefix("layers.") for row in report.layers if row.on_trunk]


def following(row: LayerMeasurement) -> list[str]:
    return [other.name.removeprefix("layers.") for other in row.successors]


def test_all_calls_of_a_chain_are_on_the_trunk_and_know_their_neighbours() -> None:
    report = measured(nn.Sequential(linear(), nn.Tanh(), linear(), linear()), random(4, 8))
    assert trunk(report) == ["0", "2", "3"]
    assert [[(other.name, other.call) for other in row.successors] for row in report.layers] == [
        [("2", 0)], [("3", 0)], [],
    ]  # fmt: skip
    assert [[other.name for other in row.inputs] for row in report.layers] == [[], ["0"], ["2"]]


def test_a_condition_that_runs_first_and_is_added_later_is_a_branch() -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        condition = m["t"](t)
        out: torch.Tensor = m["c"](m["b"](m["a"](x).relu() + condition))
        return out

    report = measured(Written(forward, t=linear(), a=linear(), b=linear(), c=linear()), random(4, 8), random(4, 8))
    assert trunk(report) == ["a", "b", "c"]
    assert following(rows(report)["t"]) == ["b"]


@pytest.mark.parametrize("weigh", [torch.sigmoid, functional.hardsigmoid, lambda x: torch.softmax(x, -1)])
def test_a_bounded_factor_is_a_branch_however_many_layers_it_has(weigh: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        h = m["a"](x)
        out: torch.Tensor = m["o"](h * weigh(m["e"](m["r"](h).relu())))
        return out

    report = measured(Written(forward, a=linear(), r=linear(), e=linear(), o=linear()), random(4, 8))
    assert trunk(report) == ["a", "o"]
    assert sorted(following(rows(report)["a"])) == ["o", "r"]


def test_a_product_with_an_unbounded_factor_leaves_the_longer_way_on_the_trunk() -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        h = m["a"](x)
        out: torch.Tensor = m["o"](h * m["e"](m["r"](h).relu()))
        return out

    report = measured(Written(forward, a=linear(), r=linear(), e=linear(), o=linear()), random(4, 8))
    assert trunk(report) == ["a", "r", "e", "o"]


@pytest.mark.parametrize("is_fused", [True, False])
def test_queries_and_keys_are_branches_and_values_are_on_the_trunk(is_fused: bool) -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m["q"](x), m["k"](m["j"](x)), m["v"](x)
        if is_fused:
            mixed = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            mixed = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        out: torch.Tensor = m["o"](mixed)
        return out

    report = measured(Written(forward, q=linear(), j=linear(), k=linear(), v=linear(), o=linear()), random(4, 5, 8))
    assert trunk(report) == ["v", "o"]


def test_a_call_that_a_normalisation_takes_has_the_size_that_is_divided_out() -> None:
    first = linear()
    with torch.no_grad():
        first.weight.mul_(1e-4)
    report = measured(nn.Sequential(first, nn.LayerNorm(8, dtype=torch.float64), nn.ReLU(), linear()), random(4, 8))
    scale = report.layers[0].normalised_scale
    assert report.layers[0].activation is not None
    assert scale == pytest.approx(report.layers[0].activation.rms)
    assert [row.normalised_scale for row in report.layers[1:]] == [None, None]


def test_a_normalisation_without_parameters_divides_the_size_out_too() -> None:
    norm = nn.LayerNorm(8, elementwise_affine=False)
    report = measured(nn.Sequential(linear(), norm, linear()), random(4, 8))
    assert report.layers[0].normalised_scale is not None


@pytest.mark.parametrize("way", ["around", "curved"])
def test_a_call_has_no_size_to_divide_out_if_another_way_or_a_curve_takes_it(way: str) -> None:
    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        h = m["a"](x)
        out: torch.Tensor = m["o"](m["n"](h) + h if way == "around" else m["n"](h.tanh()))
        return out

    report = measured(Written(forward, a=linear(), n=nn.LayerNorm(8, dtype=torch.float64), o=linear()), random(4, 8))
    assert rows(report)["a"].normalised_scale is None


def repeated(matrix: torch.Tensor, steps: int, weights: list[float]) -> Report:
    """Apply one matrix several times; the loss adds the state of each step with a weight."""

    def forward(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        states = []
        for _ in range(steps):
            x = m["h"](x)
            states.append(x)
        return torch.stack([weight * state for weight, state in zip(weights, states, strict=True)])

    layer = nn.Linear(8, 8, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return measured(Written(forward, h=layer), random(4, 8))


@pytest.mark.parametrize("weights", [[0.0] * 5 + [1.0], [1.0] + [1e-6] * 5])
def test_the_gain_of_a_recurrence_is_that_of_its_jacobians_wherever_the_loss_enters(weights: list[float]) -> None:
    report = repeated(0.5 * torch.eye(8), 6, weights)
    assert report.layers[0].recurrence_calls == 6
    assert report.layers[0].recurrence_gain == pytest.approx(0.5**5)
    assert all(row.recurrence_calls == 0 for row in report.layers[1:])


def test_calls_of_one_layer_on_two_inputs_are_no_recurrence() -> None:
    def forward(m: nn.ModuleDict, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([1e-4 * m["h"](a), m["h"](b)])

    report = measured(Written(forward, h=linear()), random(4, 8), random(4, 8))
    assert [row.recurrence_calls for row in report.layers] == [0, 0]


def test_a_table_tied_to_the_head_is_no_recurrence() -> None:
    table = nn.Embedding(8, 8, dtype=torch.float64)
    model = Written(
        lambda own, x: functional.linear(own["a"](own["table"](x)), own["table"].weight), table=table, a=linear()
    )
    report = measured(model, torch.arange(6))
    assert len(report.layers) == 3
    assert all(row.recurrence_calls == 0 for row in report.layers)


def test_measuring_a_recurrence_changes_no_gradient() -> None:
    matrix = random(8, 8)
    weight = next(row for row in repeated(matrix, 3, [1.0, 1.0, 1.0]).parameters if row.name.endswith("weight"))
    expected = matrix.clone().requires_grad_()
    state, total = random(4, 8), torch.zeros((), dtype=torch.float64)
    for _ in range(3):
        state = state @ expected.T
        total = total + state.sum()
    (gradient,) = torch.autograd.grad(total, [expected])
    assert weight.grad_norm == pytest.approx(float(gradient.norm()))
