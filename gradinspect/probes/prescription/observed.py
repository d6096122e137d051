"""What one forward pass of an eager model shows: which activations are functions, and what makes the output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.report.actions.functions import functions_of
from gradinspect.contracts.report.actions.modules import OutputFunction
from gradinspect.engine.network.outputs import first_tensor
from gradinspect.engine.network.reproducible import left_as_found, seeded
from gradinspect.probes.trial.task import Task

_TORCH = str(Path(torch.__file__).parent) + os.sep
_MODULES = str(Path(nn.__file__).parent / "modules") + os.sep
_MOST_FRAMES = 40
_FUNCTIONS: dict[Callable[..., Any], str] = {  # Any: functions of torch
    eval(source, {"torch": torch, "nn": nn}): name  # noqa: S307  # our own table
    for name in BY_NAME
    for source in functions_of(name)
}


@dataclass
class Calls:
    """The calls of one function in one forward pass.

    Attributes:
        total: all calls, those by modules of torch.nn included.
        direct: calls by the model's own code.
        file, line: of the first direct call.
        last_file, last_line: of the last one.
    """

    total: int = 0
    direct: int = 0
    file: str | None = None
    line: int | None = None
    last_file: str | None = None
    last_line: int | None = None


@dataclass(frozen=True)
class Observed:
    """What a forward pass showed.

    Attributes:
        calls: by the activation's name.
        output: the activation that makes the output; None without one.
        output_module: the path of its module; None where it is a call of a function.
    """

    calls: dict[str, Calls] = field(default_factory=dict)
    output: str | None = None
    output_module: str | None = None

    def is_functional(self, name: str) -> bool:
        """Check that the model's own code calls the function."""
        return name in self.calls and self.calls[name].direct > 0


def observe(model: nn.Module, task: Task) -> Observed:
    """Run a forward pass of an eager model and watch its activations. Cost: one forward pass."""
    mode, produced = _Watching(), _Producers(model)
    with left_as_found(model, task.mode), seeded(task.seed, task.device), torch.no_grad(), task.casts(), produced, mode:
        output = model(*task.inputs)
    tensor = first_tensor(output)
    module = produced.module_of(tensor)
    if module is not None:
        return Observed(mode.calls, module[1], module[0])
    return Observed(mode.calls, mode.last if mode.last_result is tensor else None)


class _Watching(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Calls] = {}
        self.last: str | None = None
        self.last_result: object = None

    # Any: torch's own signature
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = _FUNCTIONS.get(func)
        if name is not None:
            self._count(self.calls.setdefault(name, Calls()))
            self.last, self.last_result = name, result
        return result

    @staticmethod
    def _count(calls: Calls) -> None:
        calls.total += 1
        source = _direct_caller()
        if source is not None:
            calls.direct += 1
            calls.last_file, calls.last_line = source
            if calls.file is None:
                calls.file, calls.line = source


def _direct_caller() -> tuple[str, int] | None:
    """Return file and line of the model's code that makes the call; None for a module of torch.nn."""
    frame = sys._getframe(3)
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return None
        file = frame.f_code.co_filename
        if file.startswith(_MODULES):
            return None
        if not file.startswith((_TORCH, "<frozen")):
            return _short(file), frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]  # None at the outermost frame
    return None


def _short(file: str) -> str:
    return file.removeprefix(f"{Path.cwd()}{os.sep}")[-200:]


class _Producers:
    """Remembers which activation module returned which tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._results: list[tuple[str, str, object]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        kinds = {layer.name: name for name in get_args(OutputFunction) for layer in BY_NAME[name].layers}
        for path, module in self._model.named_modules():
            name = kinds.get(type(module).__name__)
            if name is not None and path and type(module).__module__.startswith("torch.nn."):
                self._handles.append(module.register_forward_hook(self._hook(path, name)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, path: str, name: str) -> Callable[..., None]:
        def remember(_module: nn.Module, _inputs: object, output: object) -> None:
            self._results.append((path, name, output))

        return remember

    def module_of(self, tensor: torch.Tensor) -> tuple[str, str] | None:
        """Return path and name of the module that returned a tensor."""
        return next(((path, name) for path, name, result in reversed(self._results) if result is tensor), None)
