"""Sums that stay on a device until all are fetched together."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.engine.arrays import deferred
from gradinspect.engine.arrays.deferred import as_floats, inner_product, joint_length, length, lengths


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sums_in_host_memory_are_available_at_once() -> None:
    left, right = normal(3, 4), normal(3, 4, seed=1)
    assert inner_product(left, right) == pytest.approx(float((left * right).sum()), rel=1e-14)
    assert length(left) == pytest.approx(float(left.norm()), rel=1e-14)
    assert lengths([left, right]) == pytest.approx([float(left.norm()), float(right.norm())], rel=1e-14)
    assert joint_length([left, right]) == pytest.approx(math.hypot(float(left.norm()), float(right.norm())), rel=1e-14)
    assert joint_length([]) == 0.0


def test_a_norm_of_nan_or_infinity_is_not_finite() -> None:
    assert not math.isfinite(lengths([torch.tensor([1.0, math.inf])])[0])
    assert not math.isfinite(lengths([torch.tensor([1.0, math.nan])])[0])


class _ElsewhereMode(TorchDispatchMode):
    """Counts the values fetched from the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.fetched = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's
        self.fetched += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_tensors_on_a_device_are_reduced_there_and_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [normal(3, 4, seed=seed) for seed in range(5)]
    monkeypatch.setattr(deferred, "_in_host_memory", lambda _tensor: False)
    with _ElsewhereMode() as mode:
        sums = [inner_product(tensors[0], tensors[1]), *map(length, tensors)]
        assert all(isinstance(number, torch.Tensor) and number.dim() == 0 for number in sums)
        assert mode.fetched == 0
    found = as_floats([1.5, *sums, 2.5])
    expected = [float((tensors[0] * tensors[1]).sum()), *(float(tensor.norm()) for tensor in tensors)]
    assert found == pytest.approx([1.5, *expected, 2.5], rel=1e-14)
