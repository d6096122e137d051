"""Weight normalisation as products and quotients, because torch's fused kernel has a wrong second derivative.

When the kernel's backward pass is differentiated, it treats the norms as constants (seen in torch 2.13: products off
by half).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any  # every function of torch passes through the mode, with its operands

import torch
from torch.overrides import TorchFunctionMode


class RightSecondDerivatives(TorchFunctionMode):
    """Mode in which eager models compute weight normalisation in differentiable steps; scripted ones do not."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace torch's fused kernel."""
        chosen = _weight_norm if function is torch._weight_norm else function
        return chosen(*arguments, **(keywords or {}))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
