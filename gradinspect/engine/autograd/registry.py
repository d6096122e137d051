"""Registry of second-derivative rules, and what each rule is written with."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar  # Any: autograd contexts, and operators that torch leaves untyped

import torch

Rule = Callable[..., Any]
Backward = TypeVar("Backward", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}


def rule_for(operator: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as autograd's implementation of an aten operator, called with its operands."""

    def register(rule: Rule) -> Rule:
        RULES[operator] = rule
        return rule

    return register


def below_autograd(operator: Callable[..., Any], *operands: object) -> Any:
    """Call the operator's kernel without autograd recording it."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*operands)


def last_derivative(backward: Backward) -> Backward:
    """Make a backward method refuse to be differentiated again.

    Torch's `once_differentiable` looks at the incoming gradient only, and lets a derivative with respect to what was
    saved pass as zero.
    """

    @wraps(backward)
    def refusing(*operands: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("no third derivative is taken here: once_differentiable")
        return backward(*operands)

    return refusing  # type: ignore[return-value]  # the same signature
