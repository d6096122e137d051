"""Compact forms of per-sample gradients.

For y = Wx over positions p, the gradient of sample n is Σ_p δ_np x_npᵀ: two factors, no tensor of W's size. Biases,
gains and normalisation parameters have per-sample gradients that are small themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Products:
    """Gradients Σ_p left_np ⊗ right_np.

    Attributes:
        left: maps a range of samples to (samples, groups, positions, outputs).
        right: maps a range of samples to (samples, groups, positions, inputs).
        sizes: samples, groups, positions, outputs, inputs.
    """

    left: Callable[[slice], torch.Tensor]
    right: Callable[[slice], torch.Tensor]
    sizes: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Lookups:
    """Gradients of a table: row `indices[n, p]` receives `values[n, p]`.

    Attributes:
        indices: (samples, positions), −1 where a position adds nothing (padding).
        values: (samples, positions, width).
    """

    indices: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Vectors:
    """The gradients themselves: (samples, elements)."""

    values: torch.Tensor


Factor = Products | Lookups | Vectors
