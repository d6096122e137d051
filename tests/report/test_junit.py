"""JUnit XML: valid by its schema, one test case a rule, and what a CI system counts as failed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.ci.junit import render_junit
from gradinspect.rules import DEFAULT_POLICY, RULES, judge
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter
from tests.support.xsd import Schema

SCHEMA = Schema(Path(__file__).parents[1] / "fixtures" / "schemas" / "junit-10.xsd")
EMPTY_SUITE = '<testsuites><testsuite name="a" tests="1" failures="0" errors="0">{}</testsuite></testsuites>'


def judged(measured: Measurements, policy: Policy = DEFAULT_POLICY) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection="insp_1", settings=InspectionSettings())


def cases(text: str) -> dict[str, Element]:
    return {case.get("name") or "": case for case in ElementTree.fromstring(text).iter("testcase")}


SICK = chain((0.2,) * 5)
FROZEN = changed_parameter(chain(), "0.weight", status="frozen")


@pytest.mark.parametrize("measured", [chain(), SICK, FROZEN, chain(()), changed(SICK, "2", nonfinite_count=1)])
@pytest.mark.parametrize("fail_on", ["warn", "fail"])
def test_it_is_valid_by_the_schema(measured: Measurements, fail_on: str) -> None:
    text = render_junit(judged(measured), fail_on=fail_on)  # type: ignore[arg-type]  # of the parameters above
    assert SCHEMA.problems(text) == []


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ("<testcase/>", "attribute name is missing"),
        ('<testcase name="a"><problem/></testcase>', "children <problem> do not fit"),
        ('<testcase name="a" severity="x"/>', "attribute severity is unknown"),
        ('<testcase name="a">text</testcase>', "text is not allowed"),
    ],
)
def test_the_check_against_the_schema_can_fail(inner: str, problem: str) -> None:
    (found,) = SCHEMA.problems(EMPTY_SUITE.format(inner))
    assert problem in found


def test_the_check_against_the_schema_reads_patterns() -> None:
    text = EMPTY_SUITE.format("").replace("errors", 'time="fast" errors')
    assert "does not fit" in SCHEMA.problems(text)[0]


def test_every_rule_is_a_test_case() -> None:
    assert list(cases(render_junit(judged(chain())))) == [rule.id for rule in RULES]


def test_a_finding_is_a_failure_with_its_message_and_what_to_change() -> None:
    failure = cases(render_junit(judged(SICK)))["vanishing_signal"].find("failure")
    assert failure is not None
    assert failure.get("type") == "warn"
    assert "shrinks 3,100-fold" in (failure.get("message") or "")
    assert "what to change: initialize" in (failure.text or "")


def test_a_finding_milder_than_what_fails_passes_and_says_so() -> None:
    case = cases(render_junit(judged(SICK), fail_on="fail"))["vanishing_signal"]
    assert case.find("failure") is None
    assert "shrinks 3,100-fold" in (case.findtext("system-out") or "")


def test_information_never_fails() -> None:
    case = cases(render_junit(judged(FROZEN)))["frozen_parameter"]
    assert case.find("failure") is None
    assert "frozen" in (case.findtext("system-out") or "")


def test_a_rule_without_its_measurement_is_skipped_with_the_reason() -> None:
    skipped = cases(render_junit(judged(chain())))["noise_dominated"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "the gradient noise was not measured"


def test_a_rule_that_leaves_the_verdict_open_is_an_error() -> None:
    text = render_junit(judged(chain(())))
    assert cases(text)["vanishing_signal"].find("error") is not None
    assert cases(text)["noise_dominated"].find("error") is None


def test_a_rule_that_the_policy_switches_off_is_skipped() -> None:
    policy = Policy(name="quiet", rules={"vanishing_signal": RulePolicy(enabled=False)})
    skipped = cases(render_junit(judged(SICK, policy)))["vanishing_signal"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "the policy switches it off"


def test_the_counts_are_those_of_the_cases() -> None:
    text = render_junit(judged(changed(SICK, "2", nonfinite_count=1)))
    root = ElementTree.fromstring(text)
    found = list(cases(text).values())
    for node in (root, root[0]):
        assert node.get("tests") == str(len(RULES)) == str(len(found))
        assert node.get("failures") == str(sum(case.find("failure") is not None for case in found)) == "2"
        assert node.get("errors") == "0"
    assert root[0].get("skipped") == str(sum(case.find("skipped") is not None for case in found))


@given(name=st.text(min_size=1, max_size=40))
def test_any_name_of_a_layer_gives_well_formed_xml(name: str) -> None:
    text = render_junit(judged(changed(chain(nonlinearity="tanh"), "1", saturated_fraction=0.9, name=name)))
    assert SCHEMA.problems(text) == []
