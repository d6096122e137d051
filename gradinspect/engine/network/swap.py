"""Replacement of a model's parameters by other tensors, in eager and TorchScript models.

`torch.func.functional_call` refuses ScriptModules, but their attributes can be set. The model then computes with the
new tensor: a dual number of forward mode, a batch of vmap, a trial step of an optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any  # a tensor, or a recurrent module's list of them

import torch
from torch import nn

from gradinspect.engine.network.parameters import ParameterEntry

FLAT_WEIGHTS = "_flat_weights"  # attribute of torch's recurrent modules with a second reference to their parameters


@contextmanager
def swapped(model: nn.Module, values: Mapping[ParameterEntry, torch.Tensor]) -> Iterator[None]:
    """Replace these parameters by `values` inside the block, under all of their names.

    A parameter that the model reaches by another way than its name (a plain attribute) is not replaced; callers that
    need certainty check the output, which then still requires a gradient.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    saved: list[tuple[nn.Module, str, Any]] = []
    try:
        for entry, value in values.items():
            for name in entry.names:
                path, _, leaf = name.rpartition(".")
                saved.append((owners[path], leaf, getattr(owners[path], leaf)))
                _set(owners[path], leaf, value)
        for owner in {owner for owner, _, _ in saved}:
            flat = getattr(owner, FLAT_WEIGHTS, None)
            if isinstance(owner, torch.jit.ScriptModule) and flat is not None:
                saved.append((owner, FLAT_WEIGHTS, flat))
                _set(owner, FLAT_WEIGHTS, _replaced(flat, values))
        yield
    finally:
        for owner, leaf, original in reversed(saved):
            _set(owner, leaf, original)


def _set(owner: nn.Module, leaf: str, value: Any) -> None:
    if isinstance(owner, torch.jit.ScriptModule):
        owner._c.setattr(leaf, value)
    elif leaf in owner._parameters:
        owner._parameters[leaf] = value


def _replaced(flat: list[torch.Tensor], values: Mapping[ParameterEntry, torch.Tensor]) -> list[torch.Tensor]:
    by_address = {member.data_ptr(): value for entry, value in values.items() for member in entry.members}
    return [by_address.get(tensor.data_ptr(), tensor) for tensor in flat]
