"""Read a layer call's output on the host in one visit: amplitude, units, similarity, and a rectifier's slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gradinspect.engine.arrays.distributions import strided_chunks
from gradinspect.engine.arrays.host_arrays import Array, host_array
from gradinspect.engine.arrays.statistics import Amplitude, array_amplitude
from gradinspect.engine.arrays.units import ACTIVATION_SAMPLE, OutputLayout, UnitReading, read_units
from gradinspect.engine.tracing.activations import SlopeReading, slope_reading


@dataclass(frozen=True, slots=True)
class OutputReading:
    """Readings of one output; `slope` is that of the rectifier that made it, None where none did."""

    amplitude: Amplitude
    units: UnitReading
    slope: SlopeReading | None


def read_output(output: torch.Tensor, layout: OutputLayout) -> OutputReading:
    """Read one output.

    Cost: five passes over its memory; two more over at most `ACTIVATION_SAMPLE` elements for the similarity.
    """
    values = host_array(output)
    flat: Array = values.ravel(order="K")  # in memory order
    amplitude = array_amplitude(flat)
    units, nonzero = read_units(values, layout)
    if not layout.is_rectified:
        return OutputReading(amplitude, units, None)
    if nonzero is None or amplitude.nonfinite_count:  # NaN is neither zero nor positive
        flat = strided_chunks(flat, ACTIVATION_SAMPLE)
        nonzero = int(np.count_nonzero(flat > 0))
    return OutputReading(amplitude, units, slope_reading(nonzero, None, flat.size))
