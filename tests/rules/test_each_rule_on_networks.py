"""Every rule on real networks: where it fires, a near miss, and both with their loss multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from gradinspect.contracts.report.report import Report
from gradinspect.rules import RULE_IDS
from gradinspect.testing.reference_networks import inspect_reference
from tests.support.rule_pairs import PAIRS

# Its threshold is absolute on purpose, and it never changes a verdict.
ABSOLUTE = "absolute_gradient_floor"
# Only named losses have an expected value, multiplied ones have none; tests/rules/test_each_rule.py multiplies both.
NAMED_LOSS = "initial_loss"
FACTORS = (1e-6, 1e6)


@cache
def inspected(rule: str, *, fires: bool, factor: float = 1.0) -> Report:
    """Return the report of one network; the learning rate and loss scale follow the loss."""
    reference = PAIRS[rule].fires if fires else PAIRS[rule].near
    options = {name: divided(value, factor) for name, value in reference.options.items()}
    return inspect_reference(replace(reference, options=options), loss_factor=factor)


def divided(option: Any, factor: float) -> Any:  # Any: JSON of an option
    """Return a learning rate or a loss scale for a loss that is multiplied by `factor`."""
    if not isinstance(option, Mapping):
        return option
    return {key: value / factor if key in ("lr", "loss_scale") else value for key, value in option.items()}


def severity(report: Report, rule: str) -> str | None:
    return next((finding.severity for finding in report.findings if finding.rule == rule), None)


def counting(report: Report) -> list[str]:
    return [f"{finding.rule} {finding.severity}" for finding in report.findings if finding.severity != "info"]


def test_every_rule_has_a_pair_of_networks() -> None:
    assert set(PAIRS) == set(RULE_IDS)


@pytest.mark.parametrize("rule", RULE_IDS)
def test_it_fires_on_one_network_and_not_on_the_near_miss(rule: str) -> None:
    assert severity(inspected(rule, fires=True), rule) is not None
    assert severity(inspected(rule, fires=False), rule) is None


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("rule", [rule for rule in RULE_IDS if rule not in (ABSOLUTE, NAMED_LOSS)])
def test_multiplying_the_loss_changes_neither_side(rule: str, factor: float) -> None:
    for fires in (True, False):
        report, scaled = inspected(rule, fires=fires), inspected(rule, fires=fires, factor=factor)
        assert severity(scaled, rule) == severity(report, rule)
        without_named = [entry for entry in counting(report) if not entry.startswith(NAMED_LOSS)]
        assert counting(scaled) == without_named
