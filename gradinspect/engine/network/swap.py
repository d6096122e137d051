"""Run a model on other tensors in place of its parameters, eager and TorchScript alike.

`torch.func.functional_call` refuses ScriptModules; their slots can be set all the same, and the model then computes
with whatever tensor stands there: a dual number of forward mode, a batch of vmap, a trial step of an optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradinspect.engine.network.parameters import ParameterEntry

FLAT_WEIGHTS = "_flat_weights"  # where torch's recurrent modules keep a second reference to their parameters


@contextmanager
def swapped(model: nn.Module, values: Mapping[ParameterEntry, torch.Tensor]) -> Iterator[None]:
    """Let the model see `values` instead of these parameters inside the block, under all of their names.

    A parameter that the model reaches by another way than its name (a plain attribute that holds it) is not swapped;
    callers that need certainty look at the output, which then still requires a gradient of the parameter itself.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    kept: list[tuple[nn.Module, str, Any]] = []  # Any: a tensor, or a recurrent module's list of them
    try:
        for entry, value in values.items():
            for name in entry.names:
                path, _, leaf = name.rpartition(".")
                kept.append((owners[path], leaf, getattr(owners[path], leaf)))
                _set(owners[path], leaf, value)
        for owner in {owner for owner, _, _ in kept}:
            flat = getattr(owner, FLAT_WEIGHTS, None)
            if isinstance(owner, torch.jit.ScriptModule) and flat is not None:
                kept.append((owner, FLAT_WEIGHTS, flat))
                _set(owner, FLAT_WEIGHTS, _replaced(flat, values))
        yield
    finally:
        for owner, leaf, original in reversed(kept):
            _set(owner, leaf, original)


def _set(owner: nn.Module, leaf: str, value: Any) -> None:  # Any: as above
    if isinstance(owner, torch.jit.ScriptModule):
        owner._c.setattr(leaf, value)
    elif leaf in owner._parameters:
        owner._parameters[leaf] = value


def _replaced(flat: list[torch.Tensor], values: Mapping[ParameterEntry, torch.Tensor]) -> list[torch.Tensor]:
    places = {member.data_ptr(): value for entry, value in values.items() for member in entry.members}
    return [places.get(tensor.data_ptr(), tensor) for tensor in flat]
