"""Numbers inside findings: expected shares of dead units, factors of remedies, and arguments that overflow."""

from __future__ import annotations

import math

import pytest

from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.report import Remedy
from gradinspect.contracts.report.rows import ActivationStatistics
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import DEFAULT_POLICY, RULES_BY_ID, judge
from gradinspect.rules.catalogue.signal.correlation_collapse import expected_dead_fraction
from gradinspect.testing.measurements import MODEL, chain, changed, layer


@pytest.mark.parametrize("samples", [2, 4])
def test_units_of_independent_samples_are_all_off_with_probability_one_half_each(samples: int) -> None:
    row = layer(0, nonlinearity="relu", sample_similarity=1 / math.pi, output_shape=(samples, 8))
    assert expected_dead_fraction(row) == pytest.approx(0.5**samples, abs=1e-3)


def test_units_of_equal_samples_are_off_for_all_or_none() -> None:
    row = layer(0, nonlinearity="relu", sample_similarity=1.0, output_shape=(64, 8))
    assert expected_dead_fraction(row) == 0.5


def test_the_factor_against_saturation_is_the_inverse_of_the_spread_with_four_decimals() -> None:
    statistics = ActivationStatistics(mean=0.0, std=3.0, rms=3.0, abs_max=9.0)
    measured = changed(chain(nonlinearity="sigmoid"), "2", saturated_fraction=0.9, preactivation=statistics)
    report = judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=InspectionSettings())
    (finding,) = [finding for finding in report.findings if finding.rule == "saturated_activation"]
    assert finding.remedy is not None
    assert finding.remedy.arguments["factor"] == 0.3333


def finding_with(arguments: dict[str, object]) -> Remedy | None:
    rule = RULES_BY_ID["exploding_signal"]
    finding = rule.finding(
        severity="warn", layers=("0",), value=1.0, threshold=0.5, message="m", explanation="e",
        remedy=Remedy(action="scale_weights", arguments=arguments),
    )  # fmt: skip
    return finding.remedy


@pytest.mark.parametrize(
    "arguments", [{"factor": math.inf}, {"nested": {"factor": math.nan}}, {"list": [1.0, math.inf]}]
)
def test_a_remedy_whose_arguments_overflow_is_dropped(arguments: dict[str, object]) -> None:
    assert finding_with(arguments) is None


def test_a_remedy_with_finite_arguments_is_kept() -> None:
    assert finding_with({"factor": 0.5, "layers": ["a"], "nested": {"count": 2}}) is not None


@pytest.mark.parametrize("optimizer", [Sgd(type="sgd", lr=0.1), None])
def test_a_report_declares_the_optimizer_of_its_request(optimizer: Sgd | None) -> None:
    settings = InspectionSettings(optimizer=optimizer)
    report = judge(chain(), policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
    assert report.optimizer == optimizer
