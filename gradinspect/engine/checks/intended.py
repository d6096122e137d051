"""Gradients that are meant to differ from the slope of the loss: straight-through estimators, reversals, fixed points.

Differences of the loss cannot confirm such a gradient, and a float64 copy cannot confirm a part in float32.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.engine.network.exported.model import ExportedModel
from gradinspect.engine.network.model_errors import is_torch

# Operations without a slope: what a straight-through estimator replaces.
_STEPS = frozenset(
    {
        "round",
        "floor",
        "ceil",
        "trunc",
        "sign",
        "sgn",
        "heaviside",
        "gt",
        "ge",
        "lt",
        "le",
        "eq",
        "ne",
        "argmax",
        "argmin",
    }
)
_CUTS = {
    torch.Tensor.detach: "detach()",
    torch.Tensor.detach_: "detach_()",
    torch.Tensor.data.__get__: ".data",  # type: ignore[attr-defined]  # a getter of C
    torch.Tensor.item: ".item()",
    torch.Tensor.tolist: ".tolist()",
    torch.Tensor.numpy: ".numpy()",
    torch.Tensor.register_hook: "register_hook()",
}


def why_meant_to_differ(model: nn.Module, compute_loss: Callable[[], object]) -> str | None:
    """Return what in the model makes its gradient differ from the slope of its loss, or its float64 copy inexact.

    Args:
        model: a float64 copy.
        compute_loss: runs the copy, once.

    Returns:
        A reason; None where nothing of that kind runs.

    Cost: one forward pass under Python modes, for a check that has failed.
    """
    if isinstance(model, torch.jit.ScriptModule) and "aten::detach" in str(model.inlined_graph):
        return "the model uses detach(), so its gradient is meant to differ from the slope of the loss"
    if isinstance(model, ExportedModel) and model.uses("detach"):
        return "the model uses detach(), so its gradient is meant to differ from the slope of the loss"
    operations, calls = _Operations(), _Calls()
    with torch.enable_grad(), calls, operations:
        compute_loss()
    if operations.narrow is not None:
        return f"a part of the model computes in {operations.narrow}, also in a float64 copy"
    what = calls.cut or operations.own_derivative()
    if what is None and operations.without_gradient:
        what = "no_grad()"
    return f"the model uses {what}, so its gradient is meant to differ from the slope of the loss" if what else None


class _Calls(TorchFunctionMode):
    """Notes the first call that cuts a tensor with a gradient off the graph, or changes its gradient."""

    cut: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # Any: as torch has it
        name = _CUTS.get(func)
        if name is not None and self.cut is None and args[0].requires_grad:
            self.cut = name
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Notes operations outside the graph, operations inside custom functions, and floating-point types.

    Attributes:
        narrow: the first dtype other than float64.
        without_gradient: arithmetic of floating-point tensors ran under no_grad, outside custom functions.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.narrow: str | None = None
        self.without_gradient = False
        self._of_functions: dict[str, set[str]] = defaultdict(set)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, torch.Tensor):
            name = "alias" if func.is_view else func._overloadpacket.__name__
            if first.is_floating_point() and first.dtype is not torch.float64 and self.narrow is None:
                self.narrow = str(first.dtype).removeprefix("torch.")
            if not torch.is_grad_enabled():
                self._note(name, any(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in args))
        return output

    def _note(self, name: str, takes_numbers: bool) -> None:
        function = _custom_function()
        if function is not None:
            self._of_functions[function].add(name.removesuffix("_"))
        elif takes_numbers and name not in ("alias", "detach", "copy_"):
            self.without_gradient = True

    def own_derivative(self) -> str | None:
        """Name a custom function whose forward is the identity or a step: its derivative is chosen, not computed."""
        for function, names in self._of_functions.items():
            if names <= {"clone", "detach", "alias"} or names & _STEPS:
                return f"the custom function {function}"
        return None


def _custom_function() -> str | None:
    """Return the class of the torch.autograd.Function that runs now."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "apply" and is_torch(frame.f_code.co_filename) and "cls" in frame.f_locals:
            return str(frame.f_locals["cls"].__name__)
        frame = frame.f_back  # type: ignore[assignment]  # None above the outermost
    return None
