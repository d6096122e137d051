"""Curvature sections and Hessian products that several test files use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from gradinspect.contracts.report.sections import Curvature
from gradinspect.engine.curvature.curvature import curvature_section
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.first_order.context import SectionInput, SectionResult


def curvature(s: SectionInput) -> tuple[Curvature, SectionResult]:
    """Measure the curvature section."""
    result = curvature_section(s)
    assert isinstance(result.section, Curvature)
    return result.section, result


def flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join tensors into one flat vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def product_of(hessian: HessianProducts, v: torch.Tensor, block: Sequence[int] | None = None) -> torch.Tensor:
    """Multiply a flat vector with the Hessian or one of its blocks."""
    out = torch.full_like(v, math.nan)
    hessian.block_product(v, out, hessian.everything if block is None else block)
    return out


def span(hessian: HessianProducts, index: int) -> slice:
    """Return where the elements of one entry are in a flat vector."""
    start = sum(hessian.sizes[:index])
    return slice(start, start + hessian.sizes[index])


class Force(nn.Module):
    """The negative gradient of a learned energy: a model that differentiates itself."""

    def __init__(self, *normalised: nn.Module) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.GELU(), *normalised, nn.Linear(6, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(point).sum(), point, create_graph=True)
        return -slope
