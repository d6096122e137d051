"""Ledgers take tensors and give readings: at once on the host, together at the end on a device.

A GPU runs asynchronously; fetching one number makes the program wait for it. The pass therefore hands every tensor to
a ledger, with a function that takes the numbers. On the host the ledger calls it immediately. On a device the numbers
stay there until `settle`, which fetches all of them in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    MeanAndRms,
    Moments,
    amplitude,
    array_moments,
    dot,
    mean_and_rms,
    moments,
    norm,
    row_moments,
    row_products,
)
from gradinspect.engine.arrays.units import OutputLayout
from gradinspect.engine.tracing.activations import SlopeReading, slope_reading, slope_sums
from gradinspect.engine.tracing.outputs import OutputReading, read_output

_SAMPLES_TOGETHER = 64  # of 64 KiB each
_TOGETHER = 32_768  # elements: more would leave the cache, and cost fresh memory for every intermediate result

Numbers = Sequence[float]
GradientSink = Callable[[Moments, Distribution | None, float], None]


class Ledger(Protocol):
    """Takes tensors, and gives each reading to its sink before or during `settle`."""

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """Read mean, rms and largest magnitude."""

    def mean_and_rms(self, tensor: torch.Tensor, sink: Callable[[MeanAndRms], None]) -> None:
        """Read mean and rms."""

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """Read the l2 norm; NaN where it is not finite."""

    def scalars(self, scalars: Sequence[torch.Tensor], sink: Callable[[Numbers], None]) -> None:
        """Read tensors of one element each."""

    def gradient(self, weight: torch.Tensor | None, gradient: torch.Tensor, sink: GradientSink) -> None:
        """Read the moments of a gradient, its distribution (None where a value is not finite), and ⟨W, dL/dW⟩.

        Args:
            weight: W; the product is NaN without it.
        """

    def output(self, output: torch.Tensor, layout: OutputLayout, sink: Callable[[OutputReading], None]) -> None:
        """Read amplitude, dead units and similarity of samples; for a rectifier its slope, from a sample if large."""

    def settle(self) -> None:
        """Give out every reading that is still due."""


def read_slope(
    ledger: Ledger,
    slope: torch.Tensor,
    largest: float | None,
    sink: Callable[[SlopeReading], None],
    known: torch.Tensor | None = None,
) -> None:
    """Read the mean square of φ′ and the saturated share.

    Args:
        slope: φ′ of each element, flat.
        largest: max φ′, None where φ does not saturate.
        known: elements whose slope is known; all by default.
    """
    square, low, count = slope_sums(slope, largest, known)
    scalars = [square, *([low] if low is not None else []), *([count] if isinstance(count, torch.Tensor) else [])]

    def give(numbers: Numbers) -> None:
        elements = numbers[-1] if isinstance(count, torch.Tensor) else float(count)
        sink(slope_reading(numbers[0], None if low is None else numbers[1], elements))

    ledger.scalars(scalars, give)


class HostLedger:
    """Reads tensors in host memory.

    Large ones are read immediately, so that a gradient can be freed. Small gradients wait until several of one size
    can be read together, because small arrays cost as much as their number of calls. The samples of large ones wait
    too: read in a row, their quantiles take half the time, because the code for them is then in the cache.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[Array, Moments, float, GradientSink]] = []
        self._small: dict[
            tuple[int, np.dtype[np.floating], bool], list[tuple[Array, torch.Tensor | None, GradientSink]]
        ] = {}

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """See Ledger."""
        sink(amplitude(tensor))

    def mean_and_rms(self, tensor: torch.Tensor, sink: Callable[[MeanAndRms], None]) -> None:
        """See Ledger."""
        sink(mean_and_rms(tensor))

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """See Ledger."""
        sink(norm(tensor))

    def scalars(self, scalars: Sequence[torch.Tensor], sink: Callable[[Numbers], None]) -> None:
        """See Ledger."""
        sink([float(scalar) for scalar in scalars])

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

    def output(self, output: torch.Tensor, layout: OutputLayout, sink: Callable[[OutputReading], None]) -> None:
        """See Ledger."""
        sink(read_output(output, layout))

    def settle(self) -> None:
        """Read the gradients that were collected to be read together with others of their size."""
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
        rows = np.abs(gradients if all(finite) else gradients[finite])
        distributions = iter(row_distributions(rows, sampled=False))
        for (_, _, sink), each, product in zip(group, sums, products, strict=True):
            if each.is_finite:
                sink(each, next(distributions), product)
            else:
                sink(each, None, math.nan)
