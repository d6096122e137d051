"""What an inspection says of a model without a fault: that it learned, only where the trial saw it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradinspect import inspect


@pytest.mark.parametrize(
    ("steps", "verdict", "reason"),
    [
        (2000, "learns", "the model learns as it is"),
        (20, "undetermined", "no rule finds fault; the trial did not see it learn"),
    ],
)
def test_a_model_is_said_to_learn_where_the_trial_saw_it(steps: int, verdict: str, reason: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    inputs = torch.randn(32, 8)
    report = inspect(model, inputs, inputs[:, :3].argmax(1), trial={"steps": steps, "seconds": 60})
    assert report.verdict == "pass"
    assert report.trial is not None
    assert report.trial.verdict == verdict
    assert report.prescription is not None
    assert (report.prescription.outcome, report.prescription.reason) == ("not_needed", reason)
