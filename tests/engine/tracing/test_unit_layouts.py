"""Reshaping outputs so that units are on the last axis, and reading them on a device as on the host."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gradinspect.engine.arrays.units import OutputLayout, units_last
from gradinspect.engine.tracing.device_ledger import DeviceLedger
from gradinspect.engine.tracing.ledger import HostLedger
from gradinspect.engine.tracing.outputs import OutputReading


def test_channels_of_folded_samples_are_unfolded_by_the_declared_shape() -> None:
    values = torch.arange(24.0).reshape(8, 3)  # two samples of three channels and four positions, folded
    unfolded = units_last(values, OutputLayout((2, 3, 4), 2, channels_first=True))
    assert unfolded.shape == (2, 4, 3)
    assert torch.equal(unfolded, values.reshape(2, 3, 4).swapaxes(1, 2))


def test_features_keep_their_axis_whatever_shape_was_declared() -> None:
    values = torch.arange(24.0).reshape(4, 6)
    assert units_last(values, OutputLayout((8, 3), 8)).shape == (1, 4, 6)


def test_channels_of_another_size_than_declared_keep_their_own_shape() -> None:
    values = torch.ones(2, 3, 5)
    assert units_last(values, OutputLayout((2, 3, 4), 2, channels_first=True)).shape == (2, 5, 3)


@pytest.mark.parametrize("nonzero", [1, 2, 3, 20])
def test_dead_units_on_a_device_are_those_of_the_host(nonzero: int) -> None:
    values = torch.zeros(2, 3, 100)
    values[:, 0] = 1.0
    values.view(2, 3, 100)[0, 1, :nonzero] = 1.0
    layout = OutputLayout((2, 3, 100), 2, channels_first=True)
    readings: dict[str, OutputReading] = {}
    for name, ledger in (("host", HostLedger()), ("device", DeviceLedger())):
        ledger.output(values, layout, partial(readings.__setitem__, name))
        ledger.settle()
    assert readings["device"].units == readings["host"].units
