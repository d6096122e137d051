"""A `torch.optim` object of the caller: its settings as a request has them, and which parameters it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.report.setup import OptimizerGroup, OptimizerObject

_TYPES: dict[type[torch.optim.Optimizer], tuple[str, tuple[str, ...]]] = {
    torch.optim.SGD: ("sgd", ("lr", "momentum", "weight_decay", "nesterov")),
    torch.optim.Adam: ("adam", ("lr", "betas", "eps", "weight_decay")),
    torch.optim.AdamW: ("adamw", ("lr", "betas", "eps", "weight_decay")),
}
# Settings that the declared optimizers do not have, with the value at which they change nothing.
_WITHOUT_EFFECT = {"dampening": 0, "maximize": False, "amsgrad": False}
_MOST_NAMES, _MOST_GROUPS = 1024, 1024


@dataclass(frozen=True)
class ReadOptimizer:
    """An optimizer object that was read.

    Attributes:
        declared: as in a request; None for a class or a setting that a request cannot declare.
        document: for the report.
    """

    declared: dict[str, Any] | None  # Any: the settings, as in a request
    document: OptimizerObject


def read_optimizer(optimizer: torch.optim.Optimizer, model: object) -> ReadOptimizer:
    """Read an optimizer; nothing of it is changed.

    Args:
        optimizer: of any class.
        model: whose parameters it should hold; for a spec nothing is compared.
    """
    groups = optimizer.param_groups
    held = {id(tensor) for group in groups for tensor in group["params"]}
    named = list(model.named_parameters()) if isinstance(model, nn.Module) else []
    missing = [name for name, tensor in named if tensor.requires_grad and id(tensor) not in held]
    own = {id(tensor) for _, tensor in named}
    document = OptimizerObject(
        name=type(optimizer).__name__,
        groups=tuple(
            OptimizerGroup(lr=_rate(group), parameters=len(group["params"])) for group in groups[:_MOST_GROUPS]
        ),
        missing=tuple(missing[:_MOST_NAMES]),
        missing_count=len(missing),
        foreign_count=len(held - own) if named else 0,
    )
    return ReadOptimizer(declared_settings(optimizer), document)


def declared_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Return the settings of the first group as in a request; None where it has no such setting, or no rate."""
    known = _TYPES.get(type(optimizer))
    if known is None or not optimizer.param_groups:
        return None
    first = optimizer.param_groups[0]
    rate = _rate(first)
    if not rate or any(first.get(name, value) != value for name, value in _WITHOUT_EFFECT.items()):
        return None
    kind, settings = known
    return {"type": kind, **{name: first[name] for name in settings}, "lr": rate}


def _rate(group: dict[str, Any]) -> float | None:
    rate = group.get("lr")
    return float(rate) if rate is not None else None
