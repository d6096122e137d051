"""Hessian products compared with explicit Hessians and with differences of gradients, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from gradinspect.engine.network.swap import swapped
from tests.support.networks.hessians import curvature, product_of, span
from tests.support.networks.sample_models import TRANSFORMER, build
from tests.support.networks.section_inputs import explicit_hessian, mlp, normal, scripted, section_input


@pytest.mark.parametrize(
    "name", ["cnn with group norm", "attention", "lstm", "repeated layer", "weight norm", TRANSFORMER]
)
def test_products_equal_differences_of_the_gradient(name: str) -> None:
    model, inputs = build(name)
    s = section_input(model, inputs, normal(6, 7 if name == TRANSFORMER else 3, seed=9))
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        v = normal(hessian.size, seed=4)
        product = product_of(hessian, v)
    step = 1e-5 / float(v.norm())

    def gradient(sign: float) -> torch.Tensor:
        moved = {
            entry: entry.tensor.detach() + sign * step * v[span(hessian, place)].view_as(entry.tensor)
            for place, entry in enumerate(hessian.entries)
        }
        with replaying(s), swapped(s.model, {e: value.requires_grad_() for e, value in moved.items()}):
            return torch.cat(
                [part.reshape(-1) for part in torch.autograd.grad(s.loss_of(s.model(inputs)), [*moved.values()])]
            )

    slope = (gradient(1.0) - gradient(-1.0)) / (2 * step)
    # Truncation 1e-10 and rounding 1e-16/1e-5 relative to gradients of the size of the product.
    assert float((product - slope).norm() / slope.norm()) < 1e-6


def test_block_products_equal_products_with_blocks_of_the_hessian() -> None:
    s = section_input(mlp(3, 5, 2), normal(8, 3), normal(8, 2, seed=9))
    with replaying(s):
        H = explicit_hessian(s).detach()
        hessian = HessianProducts(s)
        chosen = torch.cat([torch.arange(hessian.size)[span(hessian, place)] for place in (1, 2)])
        v = normal(len(chosen), seed=5)
        expected = H[chosen][:, chosen] @ v
        torch.testing.assert_close(product_of(hessian, v, [1, 2]), expected, rtol=1e-11, atol=1e-13)


class Tied(nn.Module):
    """Model whose embedding is also the weight of its head."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4, sparse=sparse)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(torch.tanh(self.mix(self.tokens(tokens)))).mean(1)
        return output


@pytest.mark.parametrize("sparse", [False, True])
def test_the_uses_of_a_tied_weight_are_summed(sparse: bool) -> None:
    torch.manual_seed(0)
    model, tokens = Tied(sparse=sparse).double(), torch.arange(15).reshape(5, 3) % 7
    target = normal(5, 7, seed=1)
    twice = copy.deepcopy(model)
    twice.out.weight = nn.Parameter(twice.tokens.weight.detach())  # two objects over one memory
    for subject in (model, twice, scripted(copy.deepcopy(model))):
        s = section_input(subject, tokens, target)
        with replaying(s):
            hessian = HessianProducts(s)
            v = normal(hessian.size, seed=4)
            found = product_of(hessian, v)
            inner = hessian.inner(torch.split(v, hessian.sizes), hessian.everything)
        plain = section_input(_dense(model), tokens, target)
        with replaying(plain):
            truth = explicit_hessian(plain).detach() @ v
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
        parts = [float(v[span(hessian, place)] @ truth[span(hessian, place)]) for place in hessian.everything]
        assert inner == pytest.approx(parts, rel=1e-10, abs=1e-12)


def _dense(model: Tied) -> Tied:
    dense = Tied(sparse=False).double()
    dense.load_state_dict(model.state_dict())
    return dense


MODELS_WITH_LINEAR_PARTS = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("loss", ["output_mean", "random_cotangent"])
@pytest.mark.parametrize("name", MODELS_WITH_LINEAR_PARTS)
def test_parts_of_the_product_are_zero_where_a_linear_loss_does_not_reach(name: str, loss: str) -> None:
    torch.manual_seed(0)
    s = section_input(MODELS_WITH_LINEAR_PARTS[name]().double(), normal(4, 3, 6, 6), loss=loss)
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        v = normal(hessian.size, seed=4)
        torch.testing.assert_close(product_of(hessian, v), explicit_hessian(s).detach() @ v, rtol=1e-10, atol=1e-12)
    section, _ = curvature(s)
    assert section.status == "measured"
    assert section.hessian_trace is not None
