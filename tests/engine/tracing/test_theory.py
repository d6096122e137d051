"""Mean-field predictions and slopes of whole networks, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.engine.tracing.calls import UNREAD


def test_chi_between_linear_layers_is_its_width_times_the_variance_of_its_weights() -> None:
    second = nn.Linear(4, 2, bias=False)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), second)
    with torch.no_grad():
        second.weight.copy_(torch.tensor([[0.5, -0.5, 0.5, -0.5], [-0.5, 0.5, -0.5, 0.5]]))
    report = inspect(model, torch.randn(5, 3))
    assert report.layers[0].predicted_chi1 == pytest.approx(4 * 0.25)


def test_the_slopes_of_a_large_prelu_are_those_of_its_channels() -> None:
    first, activation = nn.Conv2d(1, 2, 1, bias=False), nn.PReLU(2)
    with torch.no_grad():
        activation.weight.copy_(torch.tensor([0.0, 2.0]))
    model = nn.Sequential(first, activation, nn.Flatten(), nn.Linear(2 * 128 * 128, 2))
    with torch.no_grad():
        first.weight.fill_(-1.0)
    report = inspect(model, torch.ones(4, 1, 128, 128))
    assert report.layers[0].mean_squared_slope == pytest.approx((0.0**2 + 2.0**2) / 2)


def test_an_output_that_was_not_read_counts_no_value_as_not_finite() -> None:
    assert UNREAD.nonfinite_count == 0
    assert UNREAD.numel == 0
