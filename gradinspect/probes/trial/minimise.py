"""L-BFGS for a few numbers. `torch.optim` has it too, but imports a compiler of 3 s on first use."""

from __future__ import annotations

from collections.abc import Callable

import torch

STEPS, MEMORY, HALVINGS = 100, 10, 30
DECREASE = 1e-4  # Armijo's share of the decrease that the slope promises
FLAT = 1e-9  # relative decrease below which the minimum is reached


def minimise(function: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> float:
    """Return the smallest value that L-BFGS with backtracking finds.

    Args:
        function: from a vector of the start's shape to a scalar with a graph.
        start: a vector, float64.

    Raises:
        RuntimeError: the function is not differentiable.

    Cost: at most `STEPS` gradients and some further values.

    >>> round(minimise(lambda x: ((x - 3.0) ** 4).sum() + 2.0, torch.zeros(2, dtype=torch.float64)), 6)
    2.0

    Source: Nocedal 1980, "Updating quasi-Newton matrices with limited storage".
    """
    x, pairs = start.clone(), []  # type: tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]
    value, slope = _with_gradient(function, x)
    for _ in range(STEPS):
        direction = -_times_inverse_hessian(slope, pairs)
        descent = float(direction @ slope)
        if not descent < 0:
            break
        step = 1.0 if pairs else 1.0 / float(slope.abs().sum())  # a first step of length 1 in any unit of the value
        for _ in range(HALVINGS):
            with torch.no_grad():
                after = float(function(x + step * direction))
            if after <= value + DECREASE * step * descent:
                break
            step /= 2
        else:
            break
        moved = step * direction
        new_value, new_slope = _with_gradient(function, x + moved)
        turned = new_slope - slope
        if float(moved @ turned) > 0:
            pairs = [*pairs[1 - MEMORY :], (moved, turned)]
        is_flat = value - new_value <= FLAT * max(abs(value), abs(new_value))
        x, value, slope = x + moved, new_value, new_slope
        if is_flat:
            break
    return value


def _with_gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> tuple[float, torch.Tensor]:
    point = x.detach().requires_grad_()
    value = function(point)
    (gradient,) = torch.autograd.grad(value, point)
    return float(value.detach()), gradient.detach()


def _times_inverse_hessian(slope: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    direction = slope
    weights = []
    for moved, turned in reversed(pairs):
        weight = float(moved @ direction) / float(moved @ turned)
        direction = direction - weight * turned
        weights.append(weight)
    if pairs:
        moved, turned = pairs[-1]
        direction = direction * (float(moved @ turned) / float(turned @ turned))
    for (moved, turned), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + moved * (weight - float(turned @ direction) / float(moved @ turned))
    return direction
