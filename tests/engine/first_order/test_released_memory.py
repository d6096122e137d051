"""A measurement has one model in memory at a time, and no graph once the rows are computed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.engine.network.build import build
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.run_pass import TracedPass
from gradinspect.inspection import subjects
from tests.support.networks.inspected import as_job, random

SPEC: dict[str, Any] = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "out_features": 8}, {"type": "Tanh"}, {"type": "Linear", "out_features": 3}],
}


class Builds:
    """Wrapper of `build` that counts the models in memory when the next one is built."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[nn.Module]] = []
        self.alive: list[int] = []

    def __call__(self, *args: Any, **keywords: Any) -> nn.Module:
        self.alive.append(sum(model() is not None for model in self.made))
        model = build(*args, **keywords)
        self.made.append(weakref.ref(model))
        return model


def test_the_model_of_one_seed_is_freed_before_the_next_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = Builds()
    monkeypatch.setattr(subjects, "build", builds)
    as_job(spec=SPEC, seeds=3)
    assert builds.alive == [0, 0, 0]


def test_a_pass_releases_its_graph() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    reading = TracedPass(model, ParameterIndex(model), [random(5, 4)], torch.Tensor.mean).run()
    assert len(reading.calls) == 2
    for call in reading.calls:
        assert not call.nodes
        assert call.activation is None or call.activation.node is None
