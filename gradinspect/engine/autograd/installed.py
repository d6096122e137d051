"""Give autograd these rules while a backward pass is recorded, in place of its own, for eager and scripted models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradinspect.engine.autograd.activation_rules import GeluBackward, ThresholdBackward
from gradinspect.engine.autograd.convolution_rules import ConvolutionBackward
from gradinspect.engine.autograd.normalization_rules import BatchNormBackward, LayerNormBackward

Rule = Callable[..., Any]  # Any: what the operator returns

_KEYS = ("AutogradCPU", "AutogradCUDA")
_installed: list[str] = []


@contextmanager
def short_second_derivatives() -> Iterator[None]:
    """Record the backward passes of ReLU, GELU, convolutions, batch and layer normalisation with our rules.

    What is recorded inside keeps them afterwards; first derivatives stay torch's, and cuDNN's batch normalisation is
    another operator with torch's own rule. Models and losses should run outside, for they may differentiate themselves,
    and a third derivative is refused. Torch's table of rules is one for the process and may not be written while others
    read it: beside other Python threads nothing is changed, and torch's longer ways are taken.
    """
    if _installed or not _is_alone():
        yield
        return
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name, rule in _RULES.items():
            for key in _KEYS:
                library.impl(name, rule, key)
        _installed.extend(_RULES)
        try:
            yield
        finally:
            _installed.clear()


def installed_rules() -> tuple[str, ...]:
    """Names of the operators that autograd differentiates by our rules at this moment."""
    return tuple(_installed)


def _is_alone() -> bool:
    return threading.active_count() == 1


def _convolution(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias_sizes: Any, *rest: Any) -> Any:
    *geometry, mask = rest
    return ConvolutionBackward.apply(g, x, w, bias_sizes, geometry, mask)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _gelu(g: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> Any:
    return GeluBackward.apply(g, x, approximate)  # type: ignore[no-untyped-call]  # torch leaves it untyped


_RULES: dict[str, Rule] = {
    "threshold_backward": ThresholdBackward.apply,
    "gelu_backward": _gelu,
    "convolution_backward": _convolution,
    "native_batch_norm_backward": BatchNormBackward.apply,
    "native_layer_norm_backward": LayerNormBackward.apply,
}
