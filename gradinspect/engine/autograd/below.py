"""What every rule needs: the operator's kernel itself, and an end to differentiating."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Backward = TypeVar("Backward", bound=Callable[..., Any])  # Any: a backward method's context and gradients


def below_autograd(operator: Callable[..., Any], *arguments: object) -> Any:  # Any: what the operator returns
    """The operator's result, past the rule by which autograd would record it."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def last_derivative(backward: Backward) -> Backward:
    """Refuse to be differentiated again.

    Torch's `once_differentiable` looks at the incoming gradient only, and lets a derivative with respect to what was
    saved pass as zero.
    """

    @wraps(backward)
    def refusing(*arguments: Any) -> Any:  # Any: as above
        if torch.is_grad_enabled():
            raise RuntimeError("no third derivative is taken here: once_differentiable")
        return backward(*arguments)

    return refusing  # type: ignore[return-value]  # the same signature
