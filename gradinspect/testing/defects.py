"""Defects to put into the weights of a healthy network. Needs torch."""

from __future__ import annotations

import torch
from torch import nn

from gradinspect.testing.networks import Draw, Recurrent


def dead_biases(share: float) -> Draw:
    """Return a draw that sets a share of the biases to −30, which no ReLU overcomes."""
    return lambda bias: bias[: int(share * bias.numel())].fill_(-30.0)


def nan_weight(model: nn.Module) -> None:
    """Set one weight of the third linear layer to NaN."""
    _linears(model)[2].weight[0, 0] = float("nan")


def frozen_layer(model: nn.Module) -> None:
    """Freeze the second linear layer."""
    _linears(model)[1].requires_grad_(False)


def confident(model: nn.Module) -> None:
    """Multiply the head's weight by 30."""
    _linears(model)[-1].weight.mul_(30)


def shrunken(model: nn.Module) -> None:
    """Shrink the weight of every linear layer by 5 %."""
    for module in _linears(model):
        module.weight.mul_(0.95)


def aligned(model: nn.Module) -> None:
    """Set every square weight to √2 times the identity, whose size is that of a random weight."""
    for module in _linears(model):
        if module.in_features == module.out_features:
            module.weight.copy_(2**0.5 * torch.eye(module.in_features))


def exploding_recurrence(model: nn.Module) -> None:
    """Make recurrent weights that multiply every state by 2.5."""
    assert isinstance(model, Recurrent)
    nn.init.orthogonal_(model.cell.get_parameter("weight_hh_l0"), gain=2.5)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]
