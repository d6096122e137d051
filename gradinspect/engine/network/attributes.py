"""Where a model keeps tensors that it does not register as parameters: in lists, dicts and plain attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.document import MAX_NAME

_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})
_DEEPEST = 4  # chosen: containers in containers
_MOST_ITEMS = 10_000  # of one container


def attribute_names(model: nn.Module, tensors: Sequence[torch.Tensor]) -> dict[int, str]:
    """Map the id of each tensor that an attribute of the model holds to a path such as `blocks[2].weight`."""
    searched = {id(tensor) for tensor in tensors}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _REGISTERED:
                continue
            for name, tensor in _held(value, f"{path}.{attribute}" if path else attribute, _DEEPEST):
                if id(tensor) in searched:
                    names.setdefault(id(tensor), name[:MAX_NAME])
    return names


def _held(value: Any, name: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:  # Any: what an attribute may hold
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        for own, tensor in value.named_parameters():
            yield f"{name}.{own}", tensor
    elif depth and isinstance(value, list | tuple | set):
        for index, item in enumerate(list(value)[:_MOST_ITEMS]):
            yield from _held(item, f"{name}[{index}]", depth - 1)
    elif depth and isinstance(value, Mapping):
        for key, item in list(value.items())[:_MOST_ITEMS]:
            yield from _held(item, f"{name}[{key!r}]", depth - 1)
