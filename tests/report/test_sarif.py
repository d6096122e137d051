"""SARIF: valid by the standard's schema, one result per finding, every rule described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.report.trial import Trial
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.ci.sarif import render_sarif
from gradinspect.rules import DEFAULT_POLICY, RULES, judge
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter

PATH = Path(__file__).parents[1] / "fixtures" / "schemas" / "sarif-2.1.0-rtm.5.json"
VALIDATOR = Draft4Validator(json.loads(PATH.read_text(encoding="utf-8")))
SICK = chain((0.2,) * 5)


def judged(measured: Measurements, policy: Policy = DEFAULT_POLICY) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection="insp_1", settings=InspectionSettings())


def run(measured: Measurements, **options: Any) -> dict[str, Any]:  # Any: options of render_sarif; SARIF's own JSON
    (only,) = json.loads(render_sarif(judged(measured), **options))["runs"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize(
    "measured",
    [
        chain(),
        SICK,
        chain(()),
        changed_parameter(chain(), "0.weight", status="frozen"),
        changed(SICK, "2", nonfinite_count=1),
    ],
)
def test_it_is_valid_by_the_standards_schema(measured: Measurements) -> None:
    document = json.loads(render_sarif(judged(measured), artifact="models/a b.json"))
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def test_the_schema_refuses_what_is_not_sarif() -> None:
    document = json.loads(render_sarif(judged(SICK)))
    document["runs"][0]["results"][0]["level"] = "severe"
    assert list(VALIDATOR.iter_errors(document))


def test_every_rule_is_described_and_results_point_to_theirs() -> None:
    found = run(changed(SICK, "2", nonfinite_count=1))
    described = [rule["id"] for rule in found["tool"]["driver"]["rules"]]
    assert described == [rule.id for rule in RULES]
    for result in found["results"]:
        assert described[result["ruleIndex"]] == result["ruleId"]


@pytest.mark.parametrize(
    ("measured", "rule", "level"),
    [
        (SICK, "vanishing_signal", "warning"),
        (chain((0.05,) * 5), "vanishing_signal", "error"),
        (changed_parameter(chain(), "0.weight", status="frozen"), "frozen_parameter", "note"),
    ],
)
def test_a_severity_becomes_a_level(measured: Measurements, rule: str, level: str) -> None:
    assert next((result["ruleId"], result["level"]) for result in run(measured)["results"]) == (rule, level)


def test_a_result_lies_in_the_models_file_at_its_layers() -> None:
    (location,) = run(SICK, artifact="models/net one.json")["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "models/net%20one.json"
    assert location["logicalLocations"] == [{"name": "0", "kind": "module"}]


def test_a_result_carries_its_numbers_and_its_remedy() -> None:
    properties = run(SICK)["results"][0]["properties"]
    assert properties["value"] == pytest.approx(0.2**5)
    assert properties["threshold"] == 1e-3
    assert properties["remedy"]["action"] == "initialize"


def test_a_finding_that_stays_keeps_its_fingerprint_when_its_number_moves() -> None:
    prints = {run(chain((gain,) * 5))["results"][0]["partialFingerprints"]["gradinspect/v1"] for gain in (0.2, 0.19)}
    assert len(prints) == 1


def test_rules_that_were_not_applied_are_notified_with_the_reason() -> None:
    quiet = Policy(name="quiet", rules={"sharpness": RulePolicy(enabled=False)})
    (only,) = json.loads(render_sarif(judged(chain(()), quiet)))["runs"]
    notes = only["invocations"][0]["toolExecutionNotifications"]
    texts = {note["associatedRule"]["id"]: (note["level"], note["message"]["text"]) for note in notes}
    assert texts["sharpness"] == ("note", "sharpness was not applied: the policy switches it off")
    assert texts["vanishing_signal"][0] == "warning"


def test_a_rule_that_the_trial_outvoted_was_applied() -> None:
    found = run(SICK.model_copy(update={"trial": Trial(verdict="learns")}))
    notified = {note["associatedRule"]["id"] for note in found["invocations"][0]["toolExecutionNotifications"]}
    assert ("vanishing_signal", "note") in {(result["ruleId"], result["level"]) for result in found["results"]}
    assert "vanishing_signal" not in notified


@given(name=st.text(min_size=1, max_size=40))
def test_any_name_of_a_layer_gives_valid_sarif(name: str) -> None:
    measured = changed(chain(nonlinearity="tanh"), "1", saturated_fraction=0.9, name=name)
    document = json.loads(render_sarif(judged(measured)).encode("utf-8", "surrogatepass"))
    assert VALIDATOR.is_valid(document)
