"""Per unit and per sample: which units are dead, and how parallel the samples' representations are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DEAD_SHARE = 0.99  # a unit is dead when it is exactly 0 for at least this share of samples and positions


@dataclass(frozen=True, slots=True)
class UnitReading:
    """Share of dead units, and mean pairwise cosine similarity between samples (None where it has no meaning)."""

    dead_fraction: float | None
    similarity: float | None


def read_units(output: torch.Tensor, shape: tuple[int, ...], samples: int, channels_first: bool) -> UnitReading:
    """Read one activation tensor.

    Args:
        output: the values, possibly with leading axes folded together.
        shape: their shape as the module gives it, one axis of which counts samples.
        samples: number of samples in the batch.
        channels_first: units lie on axis 1 (convolutions and their norms), else on the last axis.

    Cost: two element-wise passes and four matrix-vector products; one temporary of the output's size.
    """
    values = output.detach()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    if not values.numel() or values.dim() < 2:
        return UnitReading(None, None)
    return UnitReading(_dead_fraction(values, channels_first), _similarity(values, shape, samples))


def _dead_fraction(values: torch.Tensor, channels_first: bool) -> float:
    on = (values != 0).to(values.dtype)
    if channels_first and on.dim() > 2:
        grid = on.flatten(2)  # (batch, channels, positions)
        counts = (grid @ grid.new_ones(grid.shape[2])).sum(0)
    else:
        rows = on.reshape(-1, on.shape[-1])  # (samples × positions, units)
        counts = rows.new_ones(rows.shape[0]) @ rows
    looked_at = on.numel() // counts.numel()
    return float((counts <= (1 - DEAD_SHARE) * looked_at).sum()) / counts.numel()


def _similarity(values: torch.Tensor, shape: tuple[int, ...], samples: int) -> float | None:
    if samples < 2 or math.prod(shape) != values.numel():
        return None
    if shape[0] == samples:
        rows = values.reshape(samples, -1)  # (samples, features)
    elif len(shape) > 1 and shape[1] == samples:
        rows = values.reshape(shape).transpose(0, 1).reshape(samples, -1)
    else:
        return None
    norms = torch.linalg.vector_norm(rows, dim=1)
    # Σ_{i≠j} uᵢ·uⱼ = ‖Σ uᵢ‖² − Σ‖uᵢ‖²: all pairs for the price of one sum.
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    used = int(torch.count_nonzero(norms))
    if used < 2:
        return None
    total = inverse @ rows
    value = (float(torch.dot(total, total)) - used) / (used * (used - 1))
    return max(-1.0, min(1.0, value)) if math.isfinite(value) else None
