"""Where readings of tensors go: read at once on the host, or noted on a device and fetched together.

A GPU runs behind the program; asking for one number makes the program wait for it. The pass therefore hands every
tensor to a ledger with what is to be done with the numbers. On the host that happens at once. On a device the numbers
stay where they are until `settle`, which fetches all of them in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import (
    SAMPLE,
    Distribution,
    coprime_stride,
    distribution,
    row_distributions,
)
from gradinspect.engine.arrays.host_arrays import Array, flat_array
from gradinspect.engine.arrays.statistics import (
    Amplitude,
    Moments,
    Spread,
    amplitude,
    array_moments,
    dot,
    moments,
    norm,
    row_moments,
    row_products,
    spread,
)
from gradinspect.engine.tracing.activations import SlopeReading, slope_reading, slope_sums
from gradinspect.engine.tracing.outputs import OutputReading, read_output
from gradinspect.engine.tracing.units import Layout

_SAMPLES_TOGETHER = 64  # of 64 KiB each
_TOGETHER = 32_768  # elements: more would leave the cache, and cost fresh memory for every intermediate result
GradientSink = Callable[[Moments, Distribution | None, float], None]


class Ledger(Protocol):
    """Takes tensors, and gives each reading to its sink before or during `settle`."""

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """Mean, rms and largest magnitude."""

    def spread(self, tensor: torch.Tensor, sink: Callable[[Spread], None]) -> None:
        """Mean and rms."""

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """l2 norm; NaN when it is not finite."""

    def gradient(self, weight: torch.Tensor | None, gradient: torch.Tensor, sink: GradientSink) -> None:
        """Moments of a gradient, its distribution (None where a value is not finite), and ⟨W, dL/dW⟩ if W is given."""

    def slope(
        self, slope: torch.Tensor, largest: float | None, sink: Callable[[SlopeReading], None],
        known: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """Mean square of φ′ and the saturated share, over the elements that are known."""

    def output(self, output: torch.Tensor, layout: Layout, sink: Callable[[OutputReading], None]) -> None:
        """Amplitude, dead units and similarity of samples; a rectifier's slope, of a sample where it is large."""

    def settle(self) -> None:
        """Give out every reading that is still owed."""


class HostLedger:
    """Reads tensors in host memory.

    Large ones on the spot, so that a gradient can be freed. Small gradients wait until some of one size can be read
    together: what small arrays cost is the number of calls. The samples of large ones wait too: their quantiles take
    half the time one after the other, because the code for them is then still in the cache.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[Array, Moments, float, GradientSink]] = []
        self._small: dict[
            tuple[int, np.dtype[np.floating], bool], list[tuple[Array, torch.Tensor | None, GradientSink]]
        ] = {}

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """See Ledger."""
        sink(amplitude(tensor))

    def spread(self, tensor: torch.Tensor, sink: Callable[[Spread], None]) -> None:
        """See Ledger."""
        sink(spread(tensor))

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """See Ledger."""
        sink(norm(tensor))

    def gradient(self, weight: torch.Tensor | None, gradient: torch.Tensor, sink: GradientSink) -> None:
        """See Ledger."""
        if gradient.layout is not torch.strided:
            sums = moments(gradient)
            sink(sums, distribution(gradient) if sums.is_finite else None, math.nan)
            return
        values = flat_array(gradient, in_order=True)
        if values.size <= SAMPLE:
            kind = (values.size, values.dtype, weight is None)
            group = self._small.setdefault(kind, [])
            group.append((values, weight, sink))
            if values.size * len(group) >= _TOGETHER:
                self._read_small(self._small.pop(kind))
            return
        sums = array_moments(values)
        if not sums.is_finite:
            sink(sums, None, math.nan)
            return
        sample = np.abs(values[:: coprime_stride(values.size, SAMPLE)])
        product = math.nan if weight is None else dot(weight, gradient)
        self._samples.append((sample, sums, product, sink))
        if len(self._samples) >= _SAMPLES_TOGETHER:
            self._read_samples()

    def slope(
        self, slope: torch.Tensor, largest: float | None, sink: Callable[[SlopeReading], None],
        known: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """See Ledger."""
        square, low, count = slope_sums(slope, largest, known)
        sink(slope_reading(float(square), None if low is None else float(low), float(count)))

    def output(self, output: torch.Tensor, layout: Layout, sink: Callable[[OutputReading], None]) -> None:
        """See Ledger."""
        sink(read_output(output, layout))

    def settle(self) -> None:
        """Read the gradients that have waited for others of their size."""
        self._read_samples()
        while self._small:
            self._read_small(self._small.popitem()[1])

    def _read_samples(self) -> None:
        samples, self._samples = self._samples, []
        for sample, sums, product, sink in samples:
            sink(sums, row_distributions(sample[None], sampled=True)[0], product)

    def _read_small(self, group: list[tuple[Array, torch.Tensor | None, GradientSink]]) -> None:
        gradients = np.stack([values for values, _, _ in group])
        weights = [weight for _, weight, _ in group if weight is not None]
        products = [math.nan] * len(group)
        if len(weights) == len(group):
            products = row_products(np.stack([flat_array(weight, in_order=True) for weight in weights]), gradients)
        sums = row_moments(gradients)
        finite = [each.is_finite for each in sums]
        spreads = iter(row_distributions(np.abs(gradients if all(finite) else gradients[finite]), sampled=False))
        for (_, _, sink), each, product in zip(group, sums, products, strict=True):
            if each.is_finite:
                sink(each, next(spreads), product)
            else:
                sink(each, None, math.nan)
