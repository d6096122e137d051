"""Readings of tensors on an accelerator: sums stay there as float64 scalars, and are fetched in one transfer.

No operation in here waits for the device but the transfer in `settle`. Formulas and thresholds are those of the host's
readings; sums are accumulated in float64, which makes blocks unnecessary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import SAMPLE, magnitude_sample, row_distributions, strided_chunks
from gradinspect.engine.arrays.host_arrays import flat_values
from gradinspect.engine.arrays.statistics import Amplitude, Moments, Spread
from gradinspect.engine.tracing.activations import SlopeReading, slope_reading, slope_sums
from gradinspect.engine.tracing.ledger import GradientSink
from gradinspect.engine.tracing.outputs import OutputReading
from gradinspect.engine.tracing.units import (
    ACTIVATION_SAMPLE,
    DEAD_SHARE,
    NO_UNITS,
    Layout,
    UnitReading,
    has_units,
    pair_sums,
    sample_rows,
    similarity_from,
    units_last,
)

Numbers = Sequence[float]


class DeviceLedger:
    """Notes readings on the device of the tensors and gives them out in `settle`."""

    def __init__(self) -> None:
        self._noted: list[torch.Tensor] = []
        self._sinks: list[tuple[int, Callable[[Numbers], None]]] = []
        self._samples: list[torch.Tensor] = []
        self._fetched: list[np.ndarray[tuple[int, ...], np.dtype[np.floating]]] = []

    def amplitude(self, tensor: torch.Tensor, sink: Callable[[Amplitude], None]) -> None:
        """See Ledger."""
        values = flat_values(tensor)
        if not values.numel():
            sink(Amplitude(0, math.nan, math.nan))
            return

        def give(numbers: Numbers) -> None:
            total, length, largest, nonfinite = numbers
            if nonfinite:
                sink(Amplitude(values_count, math.nan, math.nan, int(nonfinite)))
            else:
                sink(Amplitude(values_count, total / values_count, length / math.sqrt(values_count), 0, largest))

        values_count = values.numel()
        self._note([_total(values), _length(values), _largest(values), _nonfinite(values)], give)

    def spread(self, tensor: torch.Tensor, sink: Callable[[Spread], None]) -> None:
        """See Ledger."""
        self.amplitude(tensor, sink)

    def norm(self, tensor: torch.Tensor, sink: Callable[[float], None]) -> None:
        """See Ledger."""
        self._note([_length(flat_values(tensor))], lambda numbers: sink(_or_nan(numbers[0])))

    def gradient(self, weight: torch.Tensor | None, gradient: torch.Tensor, sink: GradientSink) -> None:
        """See Ledger."""
        values = flat_values(gradient)
        place = len(self._samples)
        self._samples.append(magnitude_sample(gradient))
        numel = gradient.numel()
        product = (
            flat_values(weight, in_order=True).double() @ flat_values(gradient, in_order=True).double()
            if weight is not None and gradient.layout is torch.strided
            else values.new_full((), math.nan)
        )

        def give(numbers: Numbers) -> None:
            total, length, abs_total, largest, nonzero, nans, infs, inner = numbers
            if nans or infs:
                bad = Moments(numel, math.nan, math.nan, math.nan, math.nan, int(nonzero), int(nans), int(infs))
                sink(bad, None, math.nan)
                return
            sums = Moments(numel, total, length**2, abs_total, largest, int(nonzero))
            sink(sums, row_distributions(self._fetched[place][None], sampled=numel > SAMPLE)[0], inner)

        self._note(
            [_total(values), _length(values), torch.linalg.vector_norm(values, 1, dtype=torch.float64),
             _largest(values), torch.count_nonzero(values), torch.count_nonzero(values.isnan()),
             torch.count_nonzero(values.isinf()), product],
            give,
        )  # fmt: skip

    def slope(
        self, slope: torch.Tensor, largest: float | None, sink: Callable[[SlopeReading], None],
        known: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """See Ledger."""
        square, low, count = slope_sums(slope, largest, known)
        parts = [square, *([low] if low is not None else []), *([count] if isinstance(count, torch.Tensor) else [])]

        def give(numbers: Numbers) -> None:
            looked_at = numbers[-1] if isinstance(count, torch.Tensor) else float(count)
            sink(slope_reading(numbers[0], None if low is None else numbers[1], looked_at))

        self._note(parts, give)

    def output(self, output: torch.Tensor, layout: Layout, sink: Callable[[OutputReading], None]) -> None:
        """See Ledger."""
        parts: list[Any] = [NO_UNITS, None]  # Any: what has been given so far, amplitude last
        values = output.detach()
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
        if layout.is_rectified:
            positive = strided_chunks(values.reshape(-1), ACTIVATION_SAMPLE) > 0
            self.slope(positive, None, partial(parts.__setitem__, 1))
        if has_units(values):
            self._units(values, layout, partial(parts.__setitem__, 0))
        self.amplitude(output, lambda amplitude: sink(OutputReading(amplitude, *parts)))

    def _units(self, values: torch.Tensor, layout: Layout, sink: Callable[[UnitReading], None]) -> None:
        by_unit = units_last(values, layout)
        count, looked_at = by_unit.shape[-1], by_unit.shape[0] * by_unit.shape[1]
        alive = torch.count_nonzero(by_unit, dim=(0, 1))
        dead = torch.count_nonzero(alive <= (1 - DEAD_SHARE) * looked_at)
        rows = sample_rows(values, layout)
        pairs = [] if rows is None else list(pair_sums(rows))

        def give(numbers: Numbers) -> None:
            sink(UnitReading(numbers[0] / count, similarity_from(numbers[1], numbers[2]) if pairs else None))

        self._note([dead, *pairs], give)

    def settle(self) -> None:
        """Fetch everything in two transfers, and give it out in the order in which it was noted."""
        sinks, self._sinks = self._sinks, []
        noted, self._noted = self._noted, []
        samples, self._samples = self._samples, []
        if not noted:
            return
        numbers = torch.stack(noted).tolist()
        self._fetched = _fetch(samples)
        start = 0
        for count, give in sinks:
            give(numbers[start : start + count])
            start += count
        self._fetched = []

    def _note(self, scalars: list[torch.Tensor], give: Callable[[Numbers], None]) -> None:
        self._noted.extend(scalar.detach().to(torch.float64) for scalar in scalars)
        self._sinks.append((len(scalars), give))


def _fetch(samples: list[torch.Tensor]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.floating]]]:
    """Bring the samples to the host, those of one precision in one transfer."""
    found: list[np.ndarray[tuple[int, ...], np.dtype[np.floating]]] = [np.empty(0, np.float32)] * len(samples)
    for dtype in {sample.dtype for sample in samples}:
        places = [place for place, sample in enumerate(samples) if sample.dtype == dtype]
        joined = torch.cat([samples[place] for place in places]).cpu().numpy()
        start = 0
        for place in places:
            found[place] = joined[start : start + samples[place].numel()]
            start += samples[place].numel()
    return found


def _or_nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _total(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dtype=torch.float64)


def _length(values: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = torch.linalg.vector_norm(values, dtype=torch.float64)
    return length


def _largest(values: torch.Tensor) -> torch.Tensor:
    if not values.numel():
        return values.new_zeros(())
    largest: torch.Tensor = torch.linalg.vector_norm(values, math.inf)
    return largest


def _nonfinite(values: torch.Tensor) -> torch.Tensor:
    return torch.count_nonzero(~values.isfinite())
