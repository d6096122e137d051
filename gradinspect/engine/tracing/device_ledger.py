"""The ledger of an accelerator: sums stay on the device as float64 scalars, and are fetched in one transfer.

No operation here waits for the device except the transfer in `settle`. Formulas and thresholds are those of the host;
sums are accumulated in float64, which makes blocks unnecessary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import SAMPLE, magnitude_sample, row_distributions, strided_chunks
from gradinspect.engine.arrays.host_arrays import Array, flat_values
from gradinspect.engine.arrays.statistics import Amplitude, MeanAndRms, Moments
from gradinspect.engine.arrays.units import (
    ACTIVATION_SAMPLE,
    DEAD_SHARE,
    NO_UNITS,
    OutputLayout,
    UnitReading,
    has_units,
    pair_sums,
    sample_rows,
    similarity_from,
    units_last,
)
from gradinspect.engine.tracing.activations import SlopeReading
from gradinspect.engine.tracing.ledger import GradientSink, Numbers, read_slope
from gradinspect.engine.tracing.outputs import OutputReading


@dataclass(slots=True)
class _OutputParts:
    """The readings of one output; the amplitude comes last and completes them."""

    sink: Callable[[OutputReading], None]
    units: UnitReading = NO_UNITS
    slope: SlopeReading | None = None

    def complete(self, amplitude: Amplitude) -> None:
        self.sink(OutputReading(amplitude, self.units, self.slope))


class DeviceLedger:
    """Keeps readings on the device of the tensors until `settle`."""

    def __init__(self) -> None:
        self._scalars: list[torch.Tensor] = []
        self._sinks: list[tuple[int, Callable[[Numbers], None]]] = []
        self._samples: list[torch.Tensor] = []
        self._fetched: list[Array] = []

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """See Ledger."""
        values = flat_values(tensor)
        count = values.numel()
        if not count:
            sink(Amplitude(0, math.nan, math.nan))
            return

        def give(numbers: Numbers) -> None:
            total, norm, largest, nonfinite = numbers
            if nonfinite:
                sink(Amplitude(count, math.nan, math.nan, int(nonfinite)))
            else:
                sink(Amplitude(count, total / count, norm / math.sqrt(count), 0, largest))

        self.scalars([_total(values), _norm(values), _largest(values), _nonfinite(values)], give)

    def mean_and_rms(self, tensor: torch.Tensor, sink: Callable[[MeanAndRms], None]) -> None:
        """See Ledger."""
        self.amplitude(tensor, sink)

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """See Ledger."""
        self.scalars([_norm(flat_values(tensor))], lambda numbers: sink(_finite_or_nan(numbers[0])))

    def scalars(self, scalars: Sequence[torch.Tensor], sink: Callable[[Numbers], None]) -> None:
        """See Ledger."""
        self._scalars.extend(scalar.detach().to(torch.float64) for scalar in scalars)
        self._sinks.append((len(scalars), sink))

    def gradient(self, weight: torch.Tensor | None, gradient: torch.Tensor, sink: GradientSink) -> None:
        """See Ledger."""
        values = flat_values(gradient)
        index = len(self._samples)
        self._samples.append(magnitude_sample(gradient))
        numel = gradient.numel()

        def give(numbers: Numbers) -> None:
            *sums, product = numbers
            moments = _moments(sums, numel)
            if moments.is_finite:
                sink(moments, row_distributions(self._fetched[index][None], sampled=numel > SAMPLE)[0], product)
            else:
                sink(moments, None, math.nan)

        self.scalars([*_gradient_sums(values), _product(weight, gradient, values)], give)

    def output(self, output: torch.Tensor, layout: OutputLayout, sink: Callable[[OutputReading], None]) -> None:
        """See Ledger."""
        parts = _OutputParts(sink)
        values = output.detach().abs() if output.is_complex() else output.detach()
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
        if layout.is_rectified:
            positive = strided_chunks(values.reshape(-1), ACTIVATION_SAMPLE) > 0
            read_slope(self, positive, None, partial(setattr, parts, "slope"))
        if has_units(values):
            self._units(values, layout, partial(setattr, parts, "units"))
        self.amplitude(output, parts.complete)  # sinks are called in this order

    def _units(self, values: torch.Tensor, layout: OutputLayout, sink: Callable[[UnitReading], None]) -> None:
        by_unit = units_last(values, layout)
        count, elements = by_unit.shape[-1], by_unit.shape[0] * by_unit.shape[1]
        alive = torch.count_nonzero(by_unit, dim=(0, 1))
        dead = torch.count_nonzero(alive <= (1 - DEAD_SHARE) * elements)
        rows = sample_rows(values, layout)
        pairs = [] if rows is None else list(pair_sums(rows))

        def give(numbers: Numbers) -> None:
            sink(UnitReading(numbers[0] / count, similarity_from(numbers[1], numbers[2]) if pairs else None))

        self.scalars([dead, *pairs], give)

    def settle(self) -> None:
        """Fetch everything in two transfers, and give it out in the order in which it was taken."""
        sinks, self._sinks = self._sinks, []
        scalars, self._scalars = self._scalars, []
        samples, self._samples = self._samples, []
        if not scalars:
            return
        numbers = torch.stack(scalars).tolist()
        self._fetched = _fetch(samples)
        start = 0
        for count, sink in sinks:
            sink(numbers[start : start + count])
            start += count
        self._fetched = []


def _fetch(samples: list[torch.Tensor]) -> list[Array]:
    """Copy the samples to the host, those of one precision in one transfer."""
    fetched: list[Array] = [np.empty(0, np.float32)] * len(samples)
    for dtype in {sample.dtype for sample in samples}:
        indices = [index for index, sample in enumerate(samples) if sample.dtype == dtype]
        joined = torch.cat([samples[index] for index in indices]).cpu().numpy()
        start = 0
        for index in indices:
            fetched[index] = joined[start : start + samples[index].numel()]
            start += samples[index].numel()
    return fetched


def _gradient_sums(values: torch.Tensor) -> list[torch.Tensor]:
    """Return what `_moments` takes."""
    return [
        _total(values),
        _norm(values),
        torch.linalg.vector_norm(values, 1, dtype=torch.float64),
        _largest(values),
        torch.count_nonzero(values),
        torch.count_nonzero(values.isnan()),
        torch.count_nonzero(values.isinf()),
    ]


def _moments(sums: Numbers, numel: int) -> Moments:
    total, norm, abs_total, largest, nonzero, nans, infs = sums
    if nans or infs:
        return Moments(numel, math.nan, math.nan, math.nan, math.nan, int(nonzero), int(nans), int(infs))
    return Moments(numel, total, norm**2, abs_total, largest, int(nonzero))


def _product(weight: torch.Tensor | None, gradient: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return ⟨W, dL/dW⟩; NaN without a weight."""
    if weight is None or gradient.layout is not torch.strided:
        return values.new_full((), math.nan)
    return flat_values(weight, in_order=True).double() @ flat_values(gradient, in_order=True).double()


def _finite_or_nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _total(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dtype=torch.float64)


def _norm(values: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return norm


def _largest(values: torch.Tensor) -> torch.Tensor:
    if not values.numel():
        return values.new_zeros(())
    largest: torch.Tensor = torch.linalg.vector_norm(values, math.inf)
    return largest


def _nonfinite(values: torch.Tensor) -> torch.Tensor:
    return torch.count_nonzero(~values.isfinite())
