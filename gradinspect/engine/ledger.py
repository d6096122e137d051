"""Where readings of tensors go: read at once on the host, or noted on a device and fetched together.

A GPU runs behind the program; asking for one number makes the program wait for it. The pass therefore hands every
tensor to a ledger with what is to be done with the numbers. On the host that happens at once. On a device the numbers
stay where they are until `settle`, which fetches all of them in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from gradinspect.engine.activations import SlopeReading, slope_reading, slope_sums
from gradinspect.engine.distributions import Distribution, distribution, distribution_of
from gradinspect.engine.statistics import Amplitude, Moments, Spread, amplitude, dot, flat_array, moments, norm, spread
from gradinspect.engine.units import UnitReading, read_units

GradientSink = Callable[[Moments, Distribution | None, float], None]


class Ledger(Protocol):
    """Takes tensors, and gives each reading to its sink before or during `settle`."""

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """Mean, rms and largest magnitude."""

    def spread(self, tensor: torch.Tensor, sink: Callable[[Spread], None]) -> None:
        """Mean and rms."""

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """l2 norm; NaN when it is not finite."""

    def gradient(self, weight: torch.Tensor, gradient: torch.Tensor, sink: GradientSink) -> None:
        """Moments of a gradient, its distribution (None where a value is not finite), and ⟨W, dL/dW⟩."""

    def slope(
        self, slope: torch.Tensor, largest: float | None, sink: Callable[[SlopeReading], None],
        known: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """Mean square of φ′ and the saturated share, over the elements that are known."""

    def units(
        self, output: torch.Tensor, shape: tuple[int, ...], samples: int, channels_first: bool,
        sink: Callable[[UnitReading], None],
    ) -> None:  # fmt: skip
        """Dead units and similarity of samples."""

    def settle(self) -> None:
        """Give out every reading that is still owed."""


class HostLedger:
    """Reads tensors in host memory on the spot."""

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """See Ledger."""
        sink(amplitude(tensor))

    def spread(self, tensor: torch.Tensor, sink: Callable[[Spread], None]) -> None:
        """See Ledger."""
        sink(spread(tensor))

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """See Ledger."""
        sink(norm(tensor))

    def gradient(self, weight: torch.Tensor, gradient: torch.Tensor, sink: GradientSink) -> None:
        """See Ledger."""
        sums = moments(gradient)
        if sums.nan_count or sums.inf_count:
            sink(sums, None, math.nan)
        elif gradient.layout is torch.strided:
            sink(sums, distribution_of(flat_array(gradient)), dot(weight, gradient))
        else:
            sink(sums, distribution(gradient), math.nan)

    def slope(
        self, slope: torch.Tensor, largest: float | None, sink: Callable[[SlopeReading], None],
        known: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """See Ledger."""
        square, low, count = slope_sums(slope, largest, known)
        sink(slope_reading(float(square), None if low is None else float(low), float(count)))

    def units(
        self, output: torch.Tensor, shape: tuple[int, ...], samples: int, channels_first: bool,
        sink: Callable[[UnitReading], None],
    ) -> None:  # fmt: skip
        """See Ledger."""
        sink(read_units(output, shape, samples, channels_first))

    def settle(self) -> None:
        """Nothing is owed."""
