"""Shares that become zero, at limits above and below all gradients."""

from __future__ import annotations

import pytest
import torch

from gradinspect.engine.arrays.distributions import distribution
from gradinspect.engine.arrays.precision import flush_fractions


@pytest.mark.parametrize(("exponent", "share"), [(-28, 1.0), (-27, 0.0), (0, 0.0)])
def test_values_of_five_flush_only_below_a_loss_scale_that_takes_them_there(exponent: int, share: float) -> None:
    fives = distribution(torch.full((64,), 5.0))
    assert flush_fractions(fives, 2.0**exponent)[0] == share
