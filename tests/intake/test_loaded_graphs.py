"""Forbidden operators that a check of names in the source misses and the loaded graph shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.load import load_torchscript
from gradinspect.intake.operators import allows_node
from tests.support.programs import HEALTHY, ReadsAFile, scripted


class NamedLikeAnOperator(nn.Module):
    """A field has an operator's name, so a check by names mistakes the call for one of the field."""

    def __init__(self) -> None:
        super().__init__()
        self.pin_memory = True
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pin_memory:
            x = torch.mul(x, self.weight).pin_memory()
        return x


class InAFunction(nn.Module):
    """The operator is in a loop inside a function that the method calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pinned(x * self.weight)


def pinned(x: torch.Tensor) -> torch.Tensor:
    for _ in range(x.shape[0]):
        x = x.pin_memory()
    return x


class Forks(nn.Module):
    """Starts a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.jit.wait(torch.jit.fork(pinned, x * self.weight))
        return output


@pytest.mark.parametrize("family", HEALTHY)
def test_ordinary_models_load(family: str) -> None:
    make, *_ = HEALTHY[family]
    assert list(load_torchscript(scripted(make()), allows_node).parameters())


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (NamedLikeAnOperator, "aten::pin_memory"),
        (InAFunction, "aten::pin_memory"),
        (Forks, "aten::wait"),
        (ReadsAFile, "aten::from_file"),
    ],
)
def test_an_operator_is_refused_wherever_the_source_hides_it(model: type[nn.Module], operator: str) -> None:
    file = scripted(model())
    load_torchscript(file)  # torch itself accepts it
    with pytest.raises(InspectionError) as caught:
        load_torchscript(file, allows_node)
    assert caught.value.code == "unsupported_operator"
    assert operator in caught.value.detail


def test_calls_are_not_expanded() -> None:
    """Twenty-eight functions that each call the previous one twice expand to 2²⁷ nodes; each is checked once."""
    looked_at: list[str] = []

    def allows(kind: str) -> bool:
        looked_at.append(kind)
        return True

    load_torchscript(scripted(Unfolding()), allows)
    assert looked_at.count("prim::CallMethod") + looked_at.count("prim::CallFunction") >= 28
    assert len(looked_at) < 1000


class Doubled(nn.Module):
    """Calls its inner module twice."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inside(x) + self.inside(x)
        return output


class Unfolding(nn.Module):
    """Twenty-eight levels of `Doubled`."""

    def __init__(self) -> None:
        super().__init__()
        inside: nn.Module = nn.Linear(4, 4)
        for _ in range(28):
            inside = Doubled(inside)
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inside(x)
        return output
