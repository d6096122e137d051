"""Cost grows linearly with the model: counted in calls of Python functions, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.rows.layer_rows import layer_rows, parameter_rows
from gradinspect.engine.tracing.graph import consumers, next_calls, read_graph
from gradinspect.engine.tracing.naming import name_calls
from gradinspect.engine.tracing.run_pass import TracedPass
from tests.support.networks.inspected import inspect, random


class Branches(nn.Module):
    """Successive residual branches: each doubles the number of paths through the graph."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        for block in self.blocks:
            x = x + 0.1 * torch.tanh(block(x))
        return x


class Scattered(nn.Module):
    """Many small tensors added to the data one by one."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.full((3,), 1.0) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        for part in self.parts:
            x = x * part
        return x


def chain(layers: int) -> nn.Module:
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(4, 4), nn.ReLU())))


def python_calls(run: Callable[[], Any]) -> int:
    """Count the Python functions that `run` calls."""
    count = 0

    def count_call(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(count_call)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def whole_pass(model: nn.Module, inputs: torch.Tensor) -> None:
    index = ParameterIndex(model)
    reading = TracedPass(model, index, [inputs], lambda output: output.square().mean()).run()
    names = name_calls(reading.calls, index)
    layer_rows(reading, names, index)
    parameter_rows(reading, names, index, 1.0)


@pytest.mark.parametrize(
    ("make", "width"), [(chain, 4), (Branches, 4), (Scattered, 3)], ids=["chain", "branches", "scattered"]
)
def test_twice_the_layers_need_at_most_about_twice_the_calls(make: Callable[[int], nn.Module], width: int) -> None:
    inputs = random(5, width, dtype=torch.float32)
    whole_pass(make(20), inputs)  # one-time setup happens here

    def calls(layers: int) -> int:
        return python_calls(lambda: whole_pass(make(layers), inputs))

    small, large = calls(100), calls(200)
    assert large < 2.1 * small


def test_a_chain_of_two_thousand_layers_is_walked_without_recursion() -> None:
    report = inspect(chain(2000), random(2, 4, dtype=torch.float32), loss="output_mean")
    assert len(report.layers) == 2000
    assert report.depth_decay is not None


def test_every_node_comes_after_the_nodes_that_use_it() -> None:
    x = random(3, 4).requires_grad_()
    y = x * 2
    root = ((y + 1) * y.sin()).sum().grad_fn
    assert root is not None
    graph = read_graph(root)
    place = {node: index for index, node in enumerate(graph.order)}
    assert len(place) == len(graph.order)
    for node, users in consumers(graph).items():
        assert all(place[user] < place[node] for user in users)


def test_a_branching_signal_continues_at_the_call_used_first() -> None:
    x = random(3, 4).requires_grad_()
    first = x * 2
    left, right = first.sin(), first.cos()
    root = (left + right).sum().grad_fn
    assert root is not None
    nodes = {first.grad_fn: 0, left.grad_fn: 1, right.grad_fn: 2}
    assert next_calls(read_graph(root), nodes) == {0: 1}  # type: ignore[arg-type]  # none of them is None
