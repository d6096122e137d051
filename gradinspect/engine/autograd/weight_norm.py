"""Weight normalisation as products and quotients, because torch's fused kernel has a wrong second derivative.

Its backward pass takes the norms for constants when it is differentiated (seen in torch 2.13: products off by half).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class RightSecondDerivatives(TorchFunctionMode):
    """Run models inside; scripted ones keep the fused kernel."""

    def __torch_function__(
        self,
        function: Callable[..., Any],  # Any: every function of torch passes here
        types: Sequence[type],
        arguments: Sequence[Any] = (),  # Any: likewise
        keywords: Mapping[str, Any] | None = None,  # Any: likewise
    ) -> Any:  # Any: likewise
        chosen = _composed if function is torch._weight_norm else function
        return chosen(*arguments, **(keywords or {}))


def _composed(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
