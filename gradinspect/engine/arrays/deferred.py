"""Sums over tensors that stay where the tensors are, until all of them are fetched at once.

In host memory they are accumulated in float64 over chunks; on a device by its own reduction, a tree of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gradinspect.engine.arrays.host_arrays import flat_values
from gradinspect.engine.arrays.statistics import dot, norm

Sum = float | torch.Tensor  # on a device a tensor of no axes, which nobody has waited for


def _in_host_memory(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def inner_product(left: torch.Tensor, right: torch.Tensor) -> Sum:
    """Σ left·right over all elements."""
    if _in_host_memory(left):
        return dot(left, right)
    return torch.dot(left.reshape(-1), right.reshape(-1))


def length(tensor: torch.Tensor) -> Sum:
    """l2 norm over all elements; not finite where one of them is not."""
    if _in_host_memory(tensor):
        return norm(tensor)
    found: torch.Tensor = torch.linalg.vector_norm(flat_values(tensor), dtype=torch.float64)
    return found


def as_floats(sums: Sequence[Sum]) -> list[float]:
    """The sums; those on a device are fetched together."""
    waiting = [number for number in sums if isinstance(number, torch.Tensor)]
    fetched = iter(torch.stack([number.double().reshape(()) for number in waiting]).tolist() if waiting else ())
    return [next(fetched) if isinstance(number, torch.Tensor) else number for number in sums]


def lengths(tensors: Sequence[torch.Tensor]) -> list[float]:
    """l2 norm of each tensor."""
    return as_floats([length(tensor) for tensor in tensors])


def joint_length(tensors: Sequence[torch.Tensor]) -> float:
    """l2 norm over all of them."""
    return math.hypot(*lengths(tensors))
