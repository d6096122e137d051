"""Checks of the types of the arguments of `inspect()`; their values are checked where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.network.batch import tensors_in

A_TENSOR = "give a tensor (batch, …), or a sequence of tensors"


def check_types(model: object, inputs: object, targets: object, optimizer: object) -> None:
    """Refuse arguments of unsupported types, such as NumPy arrays, with advice.

    Raises:
        TypeError: naming the argument, its type and what to give.
    """
    if isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values()):
        raise TypeError(f"model is {_name(model)} of tensors; give the nn.Module that it belongs to")
    if not isinstance(model, nn.Module | ModelSpec | Mapping):
        raise TypeError(f"model is {_name(model)}; give an nn.Module, or a spec as a dict")
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        for index, each in enumerate(inputs):
            _check_tensor(f"inputs[{index}]", each, "give a tensor (batch, …)")
    elif inputs is not None:
        _check_tensor("inputs", inputs, A_TENSOR)
    if targets is not None and (
        not tensors_in(targets) or not isinstance(targets, torch.Tensor | Mapping | list | tuple)
    ):
        _check_tensor("targets", targets, "give a tensor, or leave it out")
    if optimizer is not None and not isinstance(optimizer, Mapping | torch.optim.Optimizer):
        raise TypeError(
            f'optimizer is {_name(optimizer)}; give a torch optimizer, or a dict: {{"type": "sgd", "lr": 0.1}}'
        )


def _check_tensor(argument: str, value: object, advice: str) -> None:
    if isinstance(value, torch.Tensor):
        return
    if type(value).__module__ == "numpy":
        advice = f"torch.from_numpy({argument}) makes a tensor of it"
    raise TypeError(f"{argument} is {_name(value)}; {advice}")


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
