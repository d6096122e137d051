"""A second pass with weights that start at exactly zero opened, so that the layers behind them can be judged.

A gate is opened by a small amount, so that the rest of the network stays what it is, and what arrives behind it is
divided by that amount again. Source of zero starts: Goyal et al. 2017, section 5.1; Bachlechner et al. 2021 (ReZero).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.readings import PassReading

OPENED = 1e-3  # chosen: the branches behind change the rest of the network by a thousandth


@dataclass(frozen=True)
class Opened:
    """The pass with the gates opened.

    Attributes:
        reading: of that pass.
        gates: the zero weights that were opened, each by `OPENED`.
    """

    reading: PassReading
    gates: frozenset[ParameterEntry]


def read_opened(reading: PassReading, parameters: ParameterIndex, read: Callable[[], PassReading]) -> Opened | None:
    """Read a second pass if zero weights that learn keep the signal from a layer call; None if they do not.

    Args:
        reading: of the first pass.
        read: runs another pass of the same model over the same batch.

    Cost: one pass where a gate is closed, nothing elsewhere.
    """
    if all(norm != 0 for norm in reading.signals.values()):
        return None
    gates = [entry for entry in parameters if _is_closed_gate(entry, reading)]
    if not gates:
        return None
    with _opened(gates):
        return Opened(read(), frozenset(gates))


def _is_closed_gate(entry: ParameterEntry, reading: PassReading) -> bool:
    gradient = reading.gradients.get(entry)
    return (
        not entry.name.endswith("bias")
        and reading.weights[entry].rms == 0
        and gradient is not None
        and math.isfinite(gradient.moments.abs_max)
        and gradient.moments.abs_max > 0
    )


@contextmanager
def _opened(gates: Sequence[ParameterEntry]) -> Iterator[None]:
    """Set vectors to `OPENED` and matrices to `OPENED` of torch's default draw; zero all of them again at the end."""
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for entry in gates:
                weight = entry.tensor
                if sum(size != 1 for size in weight.shape) <= 1:
                    weight.fill_(OPENED)
                else:
                    bound = OPENED / math.sqrt(weight.numel() / weight.shape[0])
                    weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
        yield
    finally:
        with torch.no_grad():
            for entry in gates:
                entry.tensor.zero_()
