"""The floating-point tensors in what a model returns, by name: in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from gradinspect.contracts.problems import InspectionError

ModelOutput = Any  # a model may return anything
ONLY = "output"  # the name of a model's output that is one tensor
_MOST_SHOWN = 10


def named_tensors(output: ModelOutput) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each floating-point tensor with its path: indices, keys and field names, joined by dots.

    >>> [name for name, _ in named_tensors({"logits": torch.zeros(2), "states": (torch.zeros(1), torch.zeros(1))})]
    ['logits', 'states.0', 'states.1']
    >>> [name for name, _ in named_tensors(torch.zeros(2))]
    ['output']
    """
    for path, tensor in _walk(output, ""):
        yield path or ONLY, tensor


def first_tensor(output: ModelOutput) -> torch.Tensor:
    """Return the first floating-point tensor of a model's output.

    Raises:
        InspectionError: `data_mismatch` when there is none.

    >>> first_tensor({"labels": torch.tensor([1]), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    first = next(named_tensors(output), None)
    if first is None:
        kind = str(output.dtype) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InspectionError("data_mismatch", f"the model returned {kind}, which holds no floating-point tensor")
    return first[1]


def select_tensor(output: ModelOutput, path: str | int | None) -> torch.Tensor:
    """Return the floating-point tensor at a path, or the first one behind it; None is the first of all.

    Raises:
        InspectionError: `data_mismatch` with the names that there are.

    >>> select_tensor({"main": torch.zeros(2), "aux": [torch.zeros(3), torch.zeros(4)]}, "aux").shape
    torch.Size([3])
    """
    if path is None:
        return first_tensor(output)
    requested = str(path)
    names = []
    for name, tensor in named_tensors(output):
        if name == requested or name.startswith(f"{requested}."):
            return tensor
        names.append(name)
    shown = ", ".join(names[:_MOST_SHOWN]) or "none"
    raise InspectionError("data_mismatch", f"the model has no output {requested!r}; its outputs are {shown}")


def _walk(part: ModelOutput, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(part, torch.Tensor):
        if part.is_floating_point() or part.is_complex():
            yield path, part
        return
    children: Iterator[tuple[object, ModelOutput]]
    if isinstance(part, Mapping):
        children = iter(part.items())
    elif isinstance(part, list | tuple):
        children = iter(enumerate(part))
    elif is_dataclass(part) and not isinstance(part, type):
        children = ((field.name, getattr(part, field.name)) for field in fields(part))
    else:
        return
    for key, child in children:
        yield from _walk(child, f"{path}.{key}" if path else str(key))
