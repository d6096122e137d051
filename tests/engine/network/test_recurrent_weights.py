"""Recurrent layers of specs compute with the weights that they hold now, also when the weights are swapped."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from gradinspect.engine.network.single_tensor import GRU, LSTM, RNN


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_swapped_weights_are_used(kind: type[RNN | GRU | LSTM]) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, output="sequence")
    x = torch.randn(2, 5, 3)
    zeros = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    assert float(layer(x).detach().abs().max()) > 0
    swapped = functional_call(layer, zeros, (x,))
    assert float(swapped.abs().max()) == 0.0
