"""Training steps: SGD and Adam as torch.optim takes them, and steps normalised by layer.

Written with one fused call a quantity for all parameters: on the small networks of a probe an optimizer's own
bookkeeping would cost as much as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from gradinspect.contracts.request import Adam, Sgd

Tensors = list[torch.Tensor]


@dataclass(eq=False)
class UpdateState:
    """What an update rule remembers; lists are aligned with the parameters."""

    step: int = 0
    first: Tensors = field(default_factory=list)
    second: Tensors = field(default_factory=list)

    def copy(self) -> UpdateState:
        """With tensors of its own."""
        return UpdateState(self.step, [t.clone() for t in self.first], [t.clone() for t in self.second])


Update = Callable[[Tensors, Tensors, Sequence[float], UpdateState], None]
"""Takes parameters, gradients, learning rates and the rule's state; moves the parameters in place."""


def declared_update(optimizer: Sgd | Adam) -> Update:
    """The step of the optimizer that a request declares."""
    return _sgd(optimizer) if isinstance(optimizer, Sgd) else _adam(optimizer)


def layer_normalised_update(groups: Sequence[Sequence[int]]) -> Update:
    """Δw = −η·‖w‖·g/‖g‖ for each group of parameters, at every step.

    Source: You, Gitman and Ginsburg 2017 (LARS), eq. 6, without momentum and weight decay. A group whose weights are
    all zero takes ‖w‖ = 1.
    """

    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        weight_norms = torch.stack(torch._foreach_norm(parameters)).tolist()
        gradient_norms = torch.stack(torch._foreach_norm(gradients)).tolist()
        factors = [0.0] * len(parameters)
        for group in groups:
            weight, gradient = (math.hypot(*(norms[i] for i in group)) for norms in (weight_norms, gradient_norms))
            for i in group:
                factors[i] = -rates[i] * (weight or 1.0) / gradient if gradient > 0 else 0.0
        torch._foreach_add_(parameters, torch._foreach_mul(gradients, factors))

    return update


def _sgd(optimizer: Sgd) -> Update:
    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        if optimizer.weight_decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=optimizer.weight_decay))
        if optimizer.momentum:
            if not state.first:
                state.first = [gradient.clone() for gradient in gradients]
            else:
                torch._foreach_mul_(state.first, optimizer.momentum)
                torch._foreach_add_(state.first, gradients)
            if optimizer.nesterov:
                gradients = list(torch._foreach_add(gradients, state.first, alpha=optimizer.momentum))
            else:
                gradients = state.first
        torch._foreach_add_(parameters, torch._foreach_mul(gradients, [-rate for rate in rates]))

    return update


def _adam(optimizer: Adam) -> Update:
    decoupled = optimizer.type == "adamw"
    decay = optimizer.weight_decay if optimizer.weight_decay is not None else (0.01 if decoupled else 0.0)
    beta1, beta2 = optimizer.betas

    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        if decay and decoupled:
            torch._foreach_mul_(parameters, [1 - rate * decay for rate in rates])
        elif decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        if not state.first:
            state.first = [torch.zeros_like(gradient) for gradient in gradients]
            state.second = [torch.zeros_like(gradient) for gradient in gradients]
        torch._foreach_lerp_(state.first, gradients, 1 - beta1)
        torch._foreach_mul_(state.second, beta2)
        torch._foreach_addcmul_(state.second, gradients, gradients, 1 - beta2)
        correction = 1 - beta1**state.step
        denominators = list(torch._foreach_sqrt(state.second))
        torch._foreach_div_(denominators, math.sqrt(1 - beta2**state.step))
        torch._foreach_add_(denominators, optimizer.eps)
        steps = torch._foreach_div(state.first, denominators)
        torch._foreach_add_(parameters, torch._foreach_mul(list(steps), [-rate / correction for rate in rates]))

    return update
