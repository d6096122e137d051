"""Complex weights have rows, whose statistics are those of the moduli."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.networks.inspected import inspect, layer, parameter, random

X, Y = random(6, 16, 1, dtype=torch.float32), random(6, 16, 1, seed=1, dtype=torch.float32)


class Spectral(nn.Module):
    """A layer of a Fourier neural operator between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.head = nn.Linear(1, 8), nn.Linear(8, 1)
        self.modes = nn.Parameter(0.3 * torch.randn(8, 8, 5, dtype=torch.cfloat))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        h = self.lift(x).transpose(1, 2)
        made = torch.einsum("bik,iok->bok", torch.fft.rfft(h)[..., :5], self.modes)
        out: torch.Tensor = self.head(torch.fft.irfft(made, n=h.shape[-1]).transpose(1, 2).relu())
        return out


def test_a_complex_weight_has_a_row_between_those_of_its_neighbours() -> None:
    report = inspect(Spectral(), X, Y, loss="mse")
    assert [row.name for row in report.layers] == ["lift", "modes", "head"]
    row = layer(report, "modes")
    assert row.signal is not None
    assert row.activation is not None
    assert row.predicted_chi1 is None


def test_statistics_of_a_complex_gradient_are_those_of_its_moduli() -> None:
    model = Spectral()
    nn.functional.mse_loss(model(X), Y).backward()
    assert model.modes.grad is not None
    moduli = model.modes.grad.abs()
    row = parameter(inspect(Spectral(), X, Y, loss="mse"), "modes")
    expected = {
        "grad_norm": moduli.norm(), "grad_rms": moduli.square().mean().sqrt(), "grad_mean": moduli.mean(),
        "grad_abs_max": moduli.max(), "weight_rms": model.modes.detach().abs().square().mean().sqrt(),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(row, name) == pytest.approx(float(value), rel=1e-4), name
