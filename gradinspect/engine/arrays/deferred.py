"""Sums over tensors that stay on the tensors' device until all of them are fetched together.

In host memory they are accumulated in float64 over chunks; on a device by its own reduction, a tree of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gradinspect.engine.arrays.host_arrays import flat_values
from gradinspect.engine.arrays.statistics import dot, norm

Sum = float | torch.Tensor  # on a device a tensor without axes, whose value may not be computed yet


def _in_host_memory(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def inner_product(left: torch.Tensor, right: torch.Tensor) -> Sum:
    """Compute Σ left·right over all elements."""
    if _in_host_memory(left):
        return dot(left, right)
    return torch.dot(left.reshape(-1), right.reshape(-1))


def length(tensor: torch.Tensor) -> Sum:
    """Compute the l2 norm over all elements; not finite where one of them is not."""
    if _in_host_memory(tensor):
        return norm(tensor)
    norm_on_device: torch.Tensor = torch.linalg.vector_norm(flat_values(tensor), dtype=torch.float64)
    return norm_on_device


def as_floats(sums: Sequence[Sum]) -> list[float]:
    """Return the sums as numbers; those on a device are fetched together."""
    waiting = [number for number in sums if isinstance(number, torch.Tensor)]
    fetched = iter(torch.stack([number.double().reshape(()) for number in waiting]).tolist() if waiting else ())
    return [next(fetched) if isinstance(number, torch.Tensor) else number for number in sums]


def lengths(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Compute the l2 norm of each tensor."""
    return as_floats([length(tensor) for tensor in tensors])


def joint_length(tensors: Sequence[torch.Tensor]) -> float:
    """Compute the l2 norm over all tensors together."""
    return math.hypot(*lengths(tensors))
