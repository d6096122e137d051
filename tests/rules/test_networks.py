"""The reference networks, measured by the engine: healthy ones pass, sick ones fail for the right reason.

Each network is drawn once from a fixed seed; every threshold is at least a third away from what healthy draws show.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.testing import networks as net
from gradinspect.testing.reference_networks import HEALTHY, INFERRED, SICK, Reference, inspect_reference
from gradinspect.testing.sick_networks import SCALED, document, finding_of

PAGE = Path(__file__).parents[2] / "docs" / "sick-networks.md"
NAMES = {id(reference): name for name, reference in (*HEALTHY.items(), *SICK.items())}


def inspected(reference: Reference, factor: float = 1.0) -> Report:
    """Return the report of a network of the set, made once."""
    return _inspected(NAMES[id(reference)], factor)


@cache
def _inspected(name: str, factor: float) -> Report:
    return inspect_reference(HEALTHY.get(name) or SICK[name], loss_factor=factor)


def counting(report: Report) -> list[str]:
    return [f"{finding.rule}: {finding.message}" for finding in report.findings if finding.severity != "info"]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_passes(name: str) -> None:
    report = inspected(HEALTHY[name])
    assert counting(report) == []
    assert report.verdict == "pass"


@pytest.mark.parametrize("factor", [SCALED, 1e6])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_passes_whatever_its_loss_is_multiplied_by(name: str, factor: float) -> None:
    report = inspected(HEALTHY[name], factor)
    assert counting(report) == []
    assert report.verdict == "pass"


def test_the_set_has_enough_networks() -> None:
    assert len(HEALTHY) >= 12
    assert len(SICK) >= 20


@pytest.mark.parametrize("name", SICK)
def test_the_ailment_of_a_sick_network_is_found(name: str) -> None:
    sick, report = SICK[name], inspected(SICK[name])
    found = finding_of(report, sick)
    assert found is not None, [finding.rule for finding in report.findings]
    assert found.severity == sick.severity, found.message
    if sick.cause is not None:
        assert found.remedy is not None
        assert found.remedy.arguments["cause"] == sick.cause, found.explanation
    if sick.severity != "info":
        assert report.verdict in ("warn", "fail")


def test_the_page_has_the_findings_of_every_network() -> None:
    """Compare every cell: verdicts, rules, causes, and the findings of other tools' rules."""
    found, written = document(inspected).splitlines(), PAGE.read_text(encoding="utf-8").splitlines()
    changed = [line for line in found if line not in written]
    assert changed == [], "run: python -m gradinspect.testing.sick_networks > docs/sick-networks.md"
    assert len(found) == len(written)


def test_the_published_ratio_rule_misses_a_failure_that_the_signal_shows() -> None:
    """Xavier before ReLU: signal and activations both shrink 0.707-fold per layer and cancel in the ratio."""
    torch.manual_seed(0)
    report = inspect(
        net.chain(nn.ReLU, nn.init.xavier_normal_, depth=30, width=256),
        torch.randn(128, 64),
        torch.randint(0, 10, (128,)),
        trial="off",
        policy=INFERRED,
    )
    kernels = [row.grad_norm for row in report.parameters if len(row.shape) == 2]
    assert kernels[0] is not None
    assert kernels[-1] is not None
    assert kernels[0] / kernels[-1] > 0.05
    assert report.layers[0].cumulative_backward_gain is not None
    assert report.layers[0].cumulative_backward_gain < 1e-3
    assert report.verdict == "fail"


@pytest.mark.parametrize("preset", ["mlp", "cnn", "resnet", "rnn", "transformer"])
def test_a_preset_with_default_arguments_passes(preset: str) -> None:
    shape = from_python(ModelSpec, {"preset": preset}).input.shape
    few = torch.randn(16, *shape) if preset in ("cnn", "resnet") else None  # 128 images would take seconds
    report = inspect({"preset": preset}, few, trial="off")
    assert counting(report) == []
    assert report.verdict == "pass"
