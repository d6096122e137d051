"""An optimizer's first step in closed form: no optimizer state is made and no weight is moved.

Source: `torch.optim` at step 1. SGD's momentum buffer starts as the gradient itself; Adam's bias correction makes
m̂ = g and v̂ = g², so its step is lr·g/(|g| + ε) (Kingma and Ba 2015, algorithm 1 at t = 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gradinspect.contracts.request.request import Adam, Sgd


@dataclass(frozen=True)
class FirstStep:
    """Δθ of the first step, up to its sign: a factor, and a direction from (weight, gradient)."""

    factor: float
    direction: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def first_step(optimizer: Sgd | Adam) -> FirstStep:
    """The first step of a declared optimizer.

    Cost of a direction: at most three element-wise passes, one temporary of the gradient's size; none for SGD without
    weight decay.
    """
    return _sgd(optimizer) if isinstance(optimizer, Sgd) else _adam(optimizer)


def _sgd(optimizer: Sgd) -> FirstStep:
    def direction(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        if not optimizer.weight_decay:
            return gradient
        return _dense(gradient).add(weight, alpha=optimizer.weight_decay)

    return FirstStep(optimizer.lr * (1.0 + optimizer.momentum if optimizer.nesterov else 1.0), direction)


def _adam(optimizer: Adam) -> FirstStep:
    decoupled = optimizer.type == "adamw"
    decay = optimizer.weight_decay if optimizer.weight_decay is not None else (0.01 if decoupled else 0.0)

    def direction(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        gradient = _dense(gradient)
        if decay and not decoupled:
            gradient = gradient.add(weight, alpha=decay)
        step = gradient / (gradient.abs() + optimizer.eps)
        return step.add(weight, alpha=decay) if decay and decoupled else step

    return FirstStep(optimizer.lr, direction)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().to_dense() if gradient.is_sparse else gradient
