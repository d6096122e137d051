"""Training steps: SGD and Adam as torch.optim takes them, and steps normalised by layer.

The same operations in the same order as torch's, so that code pasted from a report trains with the probe's very curve;
without an optimizer's bookkeeping, which on the small networks of a probe would cost as much as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from gradinspect.contracts.request.request import Adam, Sgd

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
        for group in groups:
            gradient = math.hypot(*(float(gradients[i].norm()) for i in group))
            weight = math.hypot(*(float(parameters[i].norm()) for i in group)) or 1.0
            if gradient > 0:
                for i in group:
                    parameters[i].add_(gradients[i], alpha=-rates[i] * weight / gradient)

    return update


def _sgd(optimizer: Sgd) -> Update:
    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        if optimizer.weight_decay:
            gradients = [g.add(p, alpha=optimizer.weight_decay) for g, p in zip(gradients, parameters, strict=True)]
        if optimizer.momentum:
            if not state.first:
                state.first = [gradient.clone() for gradient in gradients]
            else:
                for moving, gradient in zip(state.first, gradients, strict=True):
                    moving.mul_(optimizer.momentum).add_(gradient)
            if optimizer.nesterov:
                both = zip(gradients, state.first, strict=True)
                gradients = [gradient.add(moving, alpha=optimizer.momentum) for gradient, moving in both]
            else:
                gradients = state.first
        for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
            parameter.add_(gradient, alpha=-rate)

    return update


def _adam(optimizer: Adam) -> Update:
    decoupled = optimizer.type == "adamw"
    decay = optimizer.weight_decay if optimizer.weight_decay is not None else (0.01 if decoupled else 0.0)
    beta1, beta2 = optimizer.betas

    def update(parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        state.step += 1
        if not state.first:
            state.first = [torch.zeros_like(gradient) for gradient in gradients]
            state.second = [torch.zeros_like(gradient) for gradient in gradients]
        correction, root = 1 - beta1**state.step, (1 - beta2**state.step) ** 0.5
        for i, (parameter, gradient, rate) in enumerate(zip(parameters, gradients, rates, strict=True)):
            if decay and decoupled:
                parameter.mul_(1 - rate * decay)
            elif decay:
                gradient = gradient.add(parameter, alpha=decay)
            first = state.first[i].lerp_(gradient, 1 - beta1)
            second = state.second[i].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            parameter.addcdiv_(first, (second.sqrt() / root).add_(optimizer.eps), value=-(rate / correction))

    return update
