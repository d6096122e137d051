"""The norm of an optimizer's first step, in closed form: no optimizer state is made and no weight is moved.

Source: `torch.optim` at step 1. SGD's momentum buffer starts as the gradient itself; Adam's bias correction makes
m̂ = g and v̂ = g², so its step is lr·g/(|g| + ε) (Kingma and Ba 2015, algorithm 1 at t = 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gradinspect.contracts.request import Adam, Sgd
from gradinspect.engine.statistics import norm


def first_step_norm(optimizer: Sgd | Adam) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Make a function from (weight, gradient) to ‖Δθ‖ of the first step.

    Cost: at most three element-wise passes, one temporary of the gradient's size; none for SGD without weight decay.
    """
    return _sgd(optimizer) if isinstance(optimizer, Sgd) else _adam(optimizer)


def _sgd(optimizer: Sgd) -> Callable[[torch.Tensor, torch.Tensor], float]:
    factor = optimizer.lr * (1.0 + optimizer.momentum if optimizer.nesterov else 1.0)

    def step_norm(weight: torch.Tensor, gradient: torch.Tensor) -> float:
        if optimizer.weight_decay:
            gradient = gradient.add(weight.detach(), alpha=optimizer.weight_decay)
        return factor * norm(gradient)

    return step_norm


def _adam(optimizer: Adam) -> Callable[[torch.Tensor, torch.Tensor], float]:
    decoupled = optimizer.type == "adamw"
    decay = optimizer.weight_decay if optimizer.weight_decay is not None else (0.01 if decoupled else 0.0)

    def step_norm(weight: torch.Tensor, gradient: torch.Tensor) -> float:
        gradient = gradient.coalesce().to_dense() if gradient.is_sparse else gradient
        if decay and not decoupled:
            gradient = gradient.add(weight.detach(), alpha=decay)
        step = gradient / (gradient.abs() + optimizer.eps)
        if decay and decoupled:
            step = step.add(weight.detach(), alpha=decay)
        return optimizer.lr * norm(step)

    return step_norm
