"""Proofs that need no experiment: rows of a product, samples on the first axis, and parts that share no element."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import Node

from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.per_sample.first_axis import on_first_axis
from gradinspect.engine.per_sample.ghost_norms import is_row_product
from gradinspect.engine.per_sample.parameter_uses import ParameterSources, Part, are_disjoint, parameter_uses
from gradinspect.engine.per_sample.sample_layout import Layout, LayoutResult
from gradinspect.engine.tracing.graph import read_graph


def layouts_of(model: nn.Module, x: torch.Tensor) -> dict[Node, LayoutResult] | None:
    output = model(x)
    return on_first_axis(
        read_graph(output.grad_fn), ParameterSources(ParameterIndex(model)), x.shape[0], {x.data_ptr()}
    )


@pytest.mark.parametrize(("bias", "is_proved"), [((5,), True), ((1, 5), True), ((4, 5), False)])
def test_a_product_with_a_bias_for_all_samples_is_one_row_a_sample(bias: tuple[int, ...], is_proved: bool) -> None:
    model = nn.ParameterDict({"weight": torch.ones(3, 5), "bias": torch.ones(bias)})
    output = torch.addmm(model["bias"], torch.ones(4, 3), model["weight"])
    assert output.grad_fn is not None
    uses = parameter_uses(read_graph(output.grad_fn), ParameterSources(ParameterIndex(model)))
    assert {use.slot for use in uses} == {0, 2}
    assert is_row_product(uses, torch.ones(4, 5), Layout(1, 4, 5)) is is_proved


class Packed(nn.Module):
    """Queries and keys packed in front of the samples, and perhaps used without being taken apart."""

    def __init__(self, *, is_used_whole: bool) -> None:
        super().__init__()
        self.both = nn.Linear(3, 4)
        self.is_used_whole = is_used_whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = self.both(x).reshape(4, 5, 2, 2).permute(2, 0, 1, 3)  # (two, samples, positions, features)
        query, key = packed.unbind(0)
        product: torch.Tensor = (query * key).mean((1, 2))
        return product + packed.mean((2, 3)) if self.is_used_whole else product


@pytest.mark.parametrize("is_used_whole", [True, False])
def test_packed_projections_keep_samples_first_only_where_every_use_takes_them_apart(is_used_whole: bool) -> None:
    found = layouts_of(Packed(is_used_whole=is_used_whole), torch.randn(4, 5, 3))
    assert (found is None) is is_used_whole


@pytest.mark.parametrize(("shape", "is_proved"), [((3,), True), ((4, 3), False)])
def test_layer_normalisation_over_the_samples_too_is_not_proved(shape: tuple[int, ...], is_proved: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(shape))
    assert (layouts_of(model, torch.randn(4, 3)) is not None) is is_proved


SELECTED, SPLIT, SLICED = "SelectBackward0", "SplitBackward0", "SliceBackward0"


@pytest.mark.parametrize(
    ("parts", "are_apart"),
    [
        ([((SELECTED, 0, 0, 1),), ((SELECTED, 0, 0, 2),)], True),
        ([((SELECTED, 0, 0, 1),), ((SELECTED, 0, 1, 1),)], False),
        ([((SPLIT, 0, 1, 4),), ((SPLIT, 1, 1, 4),)], True),
        ([((SPLIT, 0, 1, 4),), ((SPLIT, 1, 1, 2),)], False),
        ([((SLICED, 0, 0, 0, 2, 1),), ((SLICED, 0, 0, 2, 4, 1),)], True),
        ([((SLICED, 0, 0, 0, 3, 1),), ((SLICED, 0, 0, 2, 4, 1),)], False),
        ([((SELECTED, 0, 0, 1),), ((SPLIT, 0, 0, 1),)], False),
        ([(), ((SELECTED, 0, 0, 1),)], False),
    ],
)
def test_parts_share_no_element_along_one_axis_only(parts: list[Part], are_apart: bool) -> None:
    assert are_disjoint(parts) is are_apart
