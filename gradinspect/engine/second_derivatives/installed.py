"""Give autograd these rules for a while: in place of its own, in this process, for eager and scripted models alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from gradinspect.engine.second_derivatives.activations import GeluBackward, ThresholdBackward
from gradinspect.engine.second_derivatives.convolution import ConvolutionBackward
from gradinspect.engine.second_derivatives.normalisation import BatchNormBackward, LayerNormBackward

_KEYS = ("AutogradCPU", "AutogradCUDA")
_lock = Lock()
_users = 0
_library: torch.library.Library | None = None


@contextmanager
def short_second_derivatives() -> Iterator[None]:
    """Differentiate the backward passes of ReLU, GELU, convolutions, batch and layer normalisation by our rules.

    First derivatives stay torch's. Others may compute meanwhile: their results are the same, up to rounding, but a
    third derivative through these operators is refused.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def installed_rules() -> tuple[str, ...]:
    """Names of the operators that autograd differentiates by our rules at this moment."""
    return tuple(_RULES) if _library is not None else ()


def _enter() -> None:
    global _users, _library  # torch's table of rules is one for the process
    with _lock:
        _users += 1
        if _library is None:
            _library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for name, rule in _RULES.items():
                for key in _KEYS:
                    _library.impl(name, rule, key)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _leave() -> None:
    global _users, _library  # likewise
    with _lock:
        _users -= 1
        if not _users and _library is not None:
            _library._destroy()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            _library = None


Rule = Callable[..., Any]  # Any: what the operator returns


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
