"""The steps of the optimizers that a request can declare: the first one in closed form, and all of them in place.

Operations and their order are those of `torch.optim`, so that code from a report trains exactly as a probe does. An
optimizer's bookkeeping is left out: on the small networks of a probe it costs as much as the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from gradinspect.contracts.optimizers import Adam, AdamW, Optimizer, Sgd

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class FirstStep:
    """−Δθ of the first step: a factor, and a function from (weight, gradient) to a direction.

    `applied` returns the weight after the step, with every rounding of the optimizer itself.

    Cost of a direction: at most three element-wise passes and one temporary of the gradient's size; none for SGD
    without weight decay.
    """

    factor: float
    direction: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    applied: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class UpdateState:
    """The state of an optimizer between steps; lists have one tensor for each parameter."""

    step: int = 0
    first: Tensors = field(default_factory=list)
    second: Tensors = field(default_factory=list)

    def copy(self) -> UpdateState:
        """Copy the state, tensors included."""
        return UpdateState(self.step, [t.clone() for t in self.first], [t.clone() for t in self.second])


Update = Callable[[Tensors, Tensors, Sequence[float], UpdateState], None]
"""Takes parameters, dense gradients, learning rates and the state; moves the parameters in place."""


class Steps(Protocol):
    """The steps of one declared optimizer."""

    def first_step(self) -> FirstStep:
        """Return the first step; no state is made and no weight is moved."""

    def update(self, parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        """Take the next step in place; an `Update`."""


def steps_of(optimizer: Optimizer) -> Steps:
    """Return the steps of a declared optimizer."""
    return _STEPS[optimizer.type](optimizer)


class _SgdSteps:
    """Source: `torch.optim.SGD`; its momentum buffer starts as the first gradient itself."""

    def __init__(self, declared: Sgd) -> None:
        self._declared = declared

    def first_step(self) -> FirstStep:
        declared = self._declared

        def direction(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            if not declared.weight_decay:
                return gradient
            return _dense(gradient).add(weight, alpha=declared.weight_decay)

        factor = declared.lr * (1.0 + declared.momentum if declared.nesterov else 1.0)
        return FirstStep(factor, direction, partial(_applied, self.update, declared.lr))

    def update(self, parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        declared = self._declared
        state.step += 1
        if declared.weight_decay:
            gradients = [g.add(p, alpha=declared.weight_decay) for g, p in zip(gradients, parameters, strict=True)]
        if declared.momentum:
            gradients = self._with_momentum(gradients, state)
        for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
            parameter.add_(gradient, alpha=-rate)

    def _with_momentum(self, gradients: Tensors, state: UpdateState) -> Tensors:
        momentum = self._declared.momentum
        if not state.first:
            state.first = [gradient.clone() for gradient in gradients]
        else:
            for moving, gradient in zip(state.first, gradients, strict=True):
                moving.mul_(momentum).add_(gradient)
        if not self._declared.nesterov:
            return state.first
        return [gradient.add(moving, alpha=momentum) for gradient, moving in zip(gradients, state.first, strict=True)]


class _AdamSteps:
    """Source: Kingma and Ba 2015, algorithm 1; at t = 1 the bias correction makes the step lr·g/(|g| + ε).

    AdamW decays the weights (Loshchilov and Hutter 2019, algorithm 2), Adam adds the decay to the gradient.
    """

    def __init__(self, declared: Adam | AdamW) -> None:
        self._declared = declared
        self._is_decoupled = isinstance(declared, AdamW)
        torchs_decay = 0.01 if self._is_decoupled else 0.0
        self._decay = declared.weight_decay if declared.weight_decay is not None else torchs_decay

    def first_step(self) -> FirstStep:
        eps, decay, is_decoupled = self._declared.eps, self._decay, self._is_decoupled

        def direction(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            gradient = _dense(gradient)
            if decay and not is_decoupled:
                gradient = gradient.add(weight, alpha=decay)
            step = gradient / (gradient.abs() + eps)
            return step.add(weight, alpha=decay) if decay and is_decoupled else step

        return FirstStep(self._declared.lr, direction, partial(_applied, self.update, self._declared.lr))

    def update(self, parameters: Tensors, gradients: Tensors, rates: Sequence[float], state: UpdateState) -> None:
        (beta1, beta2), eps, decay = self._declared.betas, self._declared.eps, self._decay
        state.step += 1
        if not state.first:
            state.first = [torch.zeros_like(gradient) for gradient in gradients]
            state.second = [torch.zeros_like(gradient) for gradient in gradients]
        correction, root = 1 - beta1**state.step, (1 - beta2**state.step) ** 0.5
        for i, (parameter, gradient, rate) in enumerate(zip(parameters, gradients, rates, strict=True)):
            if decay and self._is_decoupled:
                parameter.mul_(1 - rate * decay)
            elif decay:
                gradient = gradient.add(parameter, alpha=decay)
            first = state.first[i].lerp_(gradient, 1 - beta1)
            second = state.second[i].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            parameter.addcdiv_(first, (second.sqrt() / root).add_(eps), value=-(rate / correction))


# Any: each class takes the document of its type.
_STEPS: Mapping[str, Callable[[Any], Steps]] = {"sgd": _SgdSteps, "adam": _AdamSteps, "adamw": _AdamSteps}


def _applied(update: Update, rate: float, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    moved = weight.detach().clone()
    update([moved], [gradient.detach().to(moved.dtype, copy=True)], [rate], UpdateState())
    return moved


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().to_dense() if gradient.is_sparse else gradient
