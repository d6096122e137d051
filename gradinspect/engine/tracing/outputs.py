"""What is read of a layer call's output on the host, in one visit: size, units, similarity, a rectifier's slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import strided_chunks
from gradinspect.engine.arrays.host_arrays import Array, host_array
from gradinspect.engine.arrays.statistics import Amplitude, array_amplitude
from gradinspect.engine.tracing.activations import SlopeReading, slope_reading
from gradinspect.engine.tracing.units import ACTIVATION_SAMPLE, Layout, UnitReading, read_units


@dataclass(frozen=True, slots=True)
class OutputReading:
    """The figures of one output; `slope` is that of the rectifier it comes from, None where it comes from none."""

    amplitude: Amplitude
    units: UnitReading
    slope: SlopeReading | None


def read_output(output: torch.Tensor, layout: Layout) -> OutputReading:
    """Read one output.

    Cost: five passes over its memory; two more over at most `ACTIVATION_SAMPLE` elements for the similarity.
    """
    values = host_array(output)
    flat: Array = values.ravel(order="K")  # as it lies
    amplitude = array_amplitude(flat)
    units, nonzero = read_units(values, layout)
    if not layout.is_rectified:
        return OutputReading(amplitude, units, None)
    if nonzero is None or amplitude.nonfinite_count:  # NaN is not zero, and not positive either
        flat = strided_chunks(flat, ACTIVATION_SAMPLE)
        nonzero = int(np.count_nonzero(flat > 0))
    return OutputReading(amplitude, units, slope_reading(nonzero, None, flat.size))
