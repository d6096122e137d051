"""Symmetry of the Hessian: ordinary models pass, wrong second derivatives are noticed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.hutchinson import signs
from gradinspect.engine.curvature.symmetry import contradiction, paired_product
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from tests.support.networks.hessians import Force, curvature
from tests.support.networks.sample_models import MODELS, build
from tests.support.networks.section_inputs import normal, scripted, section_input


@pytest.mark.parametrize("name", MODELS)
def test_hessians_of_ordinary_models_are_symmetric(name: str) -> None:
    model, inputs = build(name)
    with torch.no_grad():
        output = model(inputs)
    s = section_input(model, inputs, normal(*output.shape, seed=9))
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        draws = torch.Generator().manual_seed(1)
        u, v = (torch.split(signs(hessian.size, draws, hessian.slopes[0]), hessian.sizes) for _ in range(2))
        pair = [paired_product(hessian, u, v), paired_product(hessian, v, u)]
    length = math.hypot(*(product.square**0.5 for product in pair))
    # Roundings of 2⁻⁵³ in sums of a few thousand terms.
    assert abs(pair[0].crossed - pair[1].crossed) < 1e-12 * length
    assert pair[0].inner == pytest.approx(hessian.inner(u, hessian.everything), rel=1e-12)
    assert contradiction(s, hessian, pair) is None


class ScriptedWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(normal(3, 4)), nn.Parameter(normal(3, 1).abs())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ torch._weight_norm(self.v, self.g, 0).T)


def test_fused_weight_norm_is_replaced_in_eager_models_and_detected_in_scripted_ones() -> None:
    x, y = normal(8, 4), normal(8, 3, seed=1)
    section, _ = curvature(section_input(ScriptedWeightNorm(), x, y))
    assert section.status == "measured"
    section, _ = curvature(section_input(scripted(ScriptedWeightNorm()), x, y))
    assert section.status == "undetermined"
    assert "scripted weight_norm" in (section.reason or "")


class HalfConstant(torch.autograd.Function):
    """A product whose backward pass wrongly treats the weight as a constant."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, w = ctx.saved_tensors
        return g @ w.detach(), g.T @ x


class Careless(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = HalfConstant.apply(x, self.weight)  # type: ignore[no-untyped-call]  # untyped in torch
        return output


@pytest.mark.parametrize("name", ["layer norm's third derivative", "a careless custom function"])
def test_a_hessian_that_is_not_symmetric_is_not_reported(name: str) -> None:
    torch.manual_seed(0)
    careless = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Careless(6, 5), nn.Tanh(), Careless(5, 4))
    model = careless if name == "a careless custom function" else Force(nn.LayerNorm(6, bias=False))
    section, result = curvature(section_input(model.double(), normal(6, 4), normal(6, 4, seed=1)))
    assert section.status == "undetermined"
    assert "contradict each other" in (section.reason or "")
    assert (section.hessian_trace, section.top_eigenvalue, result.parameters) == (None, None, {})
