"""Inner products that stay where their tensors are, until all of them are fetched at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradinspect.engine.statistics import dot


def inner_product(left: torch.Tensor, right: torch.Tensor) -> float | torch.Tensor:
    """Σ left·right over all elements; on a device a tensor of no axes, which nobody has waited for.

    In host memory it is accumulated in float64 over chunks; on a device by its own reduction, a tree of float32 sums.
    """
    if left.device.type == "cpu":
        return dot(left, right)
    return torch.dot(left.reshape(-1), right.reshape(-1))


def as_floats(numbers: Sequence[float | torch.Tensor]) -> list[float]:
    """The numbers; those on a device are fetched together."""
    places = [place for place, number in enumerate(numbers) if isinstance(number, torch.Tensor)]
    found = [float("nan") if isinstance(number, torch.Tensor) else number for number in numbers]
    if places:
        fetched = torch.stack([torch.as_tensor(numbers[place]) for place in places]).tolist()
        for place, value in zip(places, fetched, strict=True):
            found[place] = value
    return found
