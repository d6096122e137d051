"""Inputs of the tests of sections: a first pass over a small model."""

from __future__ import annotations

import io
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.fixed_loss import CustomLoss
from gradinspect.engine.network.reproducible import ordinary_graphs


def section_input(
    model: nn.Module,
    inputs: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    loss: Any = "mse",
    custom_loss: CustomLoss | None = None,
    budget: float | None = None,
    seed: int = 0,
    **settings: Any,
) -> SectionInput:
    """Run the first pass and return its results for the sections."""
    asked = InspectionSettings(loss=loss, **settings)
    batch = Batch((inputs,), lambda _output: target, False, "")
    with ordinary_graphs():
        return first_pass(
            Subject(model, batch, seed), asked, device=torch.device("cpu"), custom_loss=custom_loss,
            budget=Budget(budget),
        )  # fmt: skip


def scripted(model: nn.Module) -> torch.jit.ScriptModule:
    """Return the model loaded from its TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(model), file)
        loaded: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(file.getvalue()))
        return loaded


def residual(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Subtract the target, which this test's batch has, from the output."""
    assert target is not None
    return output - target


def draws(seed: int) -> torch.Generator:
    """Make a generator for the tensors of a test."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw standard normal values."""
    return torch.randn(shape, generator=draws(seed), dtype=torch.float64).to(dtype)


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh, seed: int = 0) -> nn.Sequential:
    """Build linear layers with an activation between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).double()


def explicit_hessian(s: SectionInput) -> torch.Tensor:
    """∂²loss/∂θ² as a matrix, parameters in registration order: one second derivative at a time."""
    tensors = [entry.tensor for entry in s.parameters if entry.requires_grad]
    loss = s.loss_of(s.model(*s.batch.inputs))
    gradient = torch.autograd.grad(loss, tensors, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in gradient])
    rows = [
        torch.cat(
            [
                torch.zeros_like(tensor).reshape(-1) if part is None else part.reshape(-1)
                for tensor, part in zip(
                    tensors, torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True), strict=True
                )
            ]
        )
        for value in flat
    ]
    return torch.stack(rows)
