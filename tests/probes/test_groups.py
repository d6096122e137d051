"""Groups of parameters that share a scale."""

from __future__ import annotations

import torch
from torch import nn

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.probes.scales.groups import make_groups
from tests.support.networks.probed import classes, mlp, normal, scripted, section_input


class Tied(nn.Module):
    """An embedding that shares its weight with the head, and a layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 5)
        self.middle = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(torch.tanh(self.middle(self.tokens(x))))
        return output


class Bare(nn.Module):
    """Two layers written with parameters of the root."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(normal(6, 4)), nn.Parameter(normal(6))
        self.w2, self.b2 = nn.Parameter(normal(3, 6)), nn.Parameter(normal(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.linear(x, self.w1, self.b1)
        return torch.nn.functional.linear(torch.tanh(hidden), self.w2, self.b2)


def grouped(s: SectionInput) -> dict[str, tuple[str, ...]]:
    return {group.layer: group.report(1.0).parameters for group in make_groups(s)}


def test_weight_and_bias_of_a_module_are_one_group() -> None:
    s = section_input(mlp(4, 6, 3), normal(8, 4), classes(3, 8))
    assert grouped(s) == {"0": ("0.weight", "0.bias"), "2": ("2.weight", "2.bias")}


def test_both_parameters_of_a_norm_layer_are_one_group() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    assert grouped(section_input(model, normal(8, 4), classes(3, 8)))["1"] == ("1.weight", "1.bias")


def test_all_weights_of_a_recurrent_module_are_one_group() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.head(self.cell(x)[0][:, -1])
            return output

    groups = grouped(section_input(Net(), normal(8, 6, 4, dtype=torch.float32), classes(3, 8)))
    assert list(groups) == ["cell", "head"]
    assert len(groups["cell"]) == 4


def test_modules_that_share_a_tensor_are_one_group_with_all_their_parameters() -> None:
    s = section_input(Tied(), classes(7, 8), classes(7, 8))
    assert grouped(s) == {
        "tokens": ("tokens.weight", "head.bias"),
        "middle": ("middle.weight", "middle.bias"),
    }


def test_a_tied_tensor_of_a_torchscript_file_is_one_group_as_in_the_eager_module() -> None:
    eager, loaded = (section_input(model, classes(7, 8), classes(7, 8)) for model in (Tied(), scripted(Tied())))
    assert {frozenset(names) for names in grouped(loaded).values()} == {
        frozenset(names) for names in grouped(eager).values()
    }


def test_frozen_parameters_are_left_out() -> None:
    model = mlp(4, 6, 3)
    model[0].weight.requires_grad_(False)
    s = section_input(model, normal(8, 4), classes(3, 8))
    assert grouped(s) == {"0": ("0.bias",), "2": ("2.weight", "2.bias")}


def test_parameters_of_the_root_are_grouped_by_the_layer_call_that_they_enter() -> None:
    assert sorted(grouped(section_input(Bare(), normal(8, 4), classes(3, 8))).values()) == [
        ("w1", "b1"),
        ("w2", "b2"),
    ]
