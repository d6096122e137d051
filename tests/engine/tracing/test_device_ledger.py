"""Readings on a device: equal to the host's, without waiting for the device before the end.

The device ledger runs on any device; here it runs on the CPU, in a mode that refuses every operation that would make a
program wait for an accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.contracts.optimizers import AdamW
from gradinspect.engine.arrays.units import OutputLayout
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.rows.layer_rows import layer_rows, parameter_rows
from gradinspect.engine.tracing.activations import SlopeReading
from gradinspect.engine.tracing.device_ledger import DeviceLedger
from gradinspect.engine.tracing.ledger import HostLedger, Ledger, read_slope
from gradinspect.engine.tracing.naming import name_calls
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import TracedPass
from tests.support.networks.inspected import assert_same, random

WAITING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "_unique2", "bincount", "equal", "is_nonzero",
}  # fmt: skip


class WaitsError(AssertionError):
    """An operation asked for a value of the device."""


class NoWaiting(TorchDispatchMode):
    """Refuse operations whose result is needed on the host."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name == "index" and any(_is_mask(index) for index in args[1])):
            raise WaitsError(name)
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 80), nn.Softsign(),
        nn.Linear(80, 300), nn.GELU(), nn.Linear(300, 5),
    ).to(dtype)  # fmt: skip


def passed(
    ledger: Ledger, dtype: torch.dtype = torch.float64, poison: float | None = None
) -> tuple[ParameterIndex, PassReading]:
    model = network(dtype)
    if poison is not None:
        with torch.no_grad():
            model.get_parameter("4.bias")[0] = poison
    inputs = random(10, 3, 8, 8, dtype=dtype)
    index, step = ParameterIndex(model), steps_of(AdamW(type="adamw")).first_step()
    return index, TracedPass(
        model, index, [inputs], lambda out: out.square().mean(), ledger=ledger, first_step=step
    ).run()


def rows(ledger: Ledger, **options: Any) -> tuple[list[Any], list[Any]]:
    index, reading = passed(ledger, **options)
    names = name_calls(reading.calls, index)
    return layer_rows(reading, names, index), parameter_rows(reading, names, index, 1024.0)


def assert_equal(left: list[Any], right: list[Any], relative: float) -> None:
    assert_same(left, right, relative=relative, absolute=relative * 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_device_ledger_gives_the_rows_of_the_host(dtype: torch.dtype) -> None:
    host, device = rows(HostLedger(), dtype=dtype), rows(DeviceLedger(), dtype=dtype)
    relative = 1e-11 if dtype == torch.float64 else 1e-4  # float32 blocks against sums in float64
    assert_equal(host[0], device[0], relative)
    assert_equal(host[1], device[1], relative)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_values_that_are_not_finite_are_counted_on_the_device_as_on_the_host(poison: float) -> None:
    host, device = rows(HostLedger(), poison=poison), rows(DeviceLedger(), poison=poison)
    assert_equal(host[0], device[0], 1e-11)
    assert_equal(host[1], device[1], 1e-11)


def readings(ledger: Ledger) -> list[Any]:
    """Request every kind of reading once; they are complete after `settle`."""
    found: list[Any] = [None] * 6
    output = torch.relu(random(20, 30, 40))
    take: Callable[[int], Any] = lambda place: partial(found.__setitem__, place)  # noqa: E731
    ledger.amplitude(output, take(0))
    ledger.norm(output, take(1))
    read_slope(ledger, random(500), 1.0, take(2))
    read_slope(ledger, random(500), 1.0, take(3), random(500, seed=2) > 0)
    ledger.output(output, OutputLayout((20, 30, 40), 20, is_rectified=True), take(4))
    ledger.gradient(random(200, 200), random(200, 200, seed=1), lambda *parts: found.__setitem__(5, parts))
    return found


def test_no_operation_waits_for_the_device_before_the_end() -> None:
    ledger = DeviceLedger()
    with NoWaiting():  # type: ignore[no-untyped-call]  # untyped in torch
        found = readings(ledger)
        assert found == [None] * 6
    ledger.settle()
    assert None not in found


def test_the_mode_of_these_tests_detects_the_waits_of_the_host_ledger() -> None:
    with NoWaiting(), pytest.raises(WaitsError):  # type: ignore[no-untyped-call]  # untyped in torch
        readings(HostLedger())


def test_every_settled_reading_equals_that_of_the_host() -> None:
    on_host, on_device = HostLedger(), DeviceLedger()
    host, device = readings(on_host), readings(on_device)
    on_host.settle()
    on_device.settle()
    assert isinstance(device[2], SlopeReading)
    parts = [[*found[:4], found[4].amplitude, found[4].units, found[4].slope] for found in (host, device)]
    for left, right in zip(*parts, strict=True):
        fields = getattr(left, "__dataclass_fields__", None)
        if fields is None:
            assert left == pytest.approx(right, rel=1e-12)
        else:
            for name in fields:
                expected = getattr(right, name)
                close = None if expected is None else pytest.approx(expected, rel=1e-9)
                assert getattr(left, name) == close, name
    sums, spread, product = host[5]
    other_sums, other_spread, other_product = device[5]
    assert (spread.quantiles, spread.exponent_counts) == (other_spread.quantiles, other_spread.exponent_counts)
    assert (sums.nonzero, sums.abs_max) == (other_sums.nonzero, other_sums.abs_max)
    assert product == pytest.approx(other_product, rel=1e-12)


def test_a_whole_pass_waits_only_for_the_transfer_at_its_end() -> None:
    class Counting(NoWaiting):
        waited = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            try:
                return super().__torch_dispatch__(func, types, args, kwargs)
            except WaitsError:
                Counting.waited += 1
                return func(*args, **(kwargs or {}))

    with Counting():  # type: ignore[no-untyped-call]  # untyped in torch
        passed(DeviceLedger())
    assert Counting.waited == 1  # the loss; `tolist` of the stacked numbers copies memory that is already on the host
