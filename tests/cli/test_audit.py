"""`gradinspect audit`: exit codes, and the outputs that CI systems read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result

from gradinspect.cli import cli
from gradinspect.contracts.document import from_json
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import DEFAULT_POLICY, audit_result, judge
from gradinspect.testing.measurements import MODEL, chain, changed


def spec(activation: str = "ReLU", depth: int = 4, **init: Any) -> dict[str, Any]:  # Any: JSON
    hidden = {"repeat": depth, "layers": [{"type": "Linear", "out_features": 64}, {"type": activation}]}
    document = {"input": {"shape": [32]}, "layers": [hidden, {"type": "Linear", "out_features": 10}]}
    return {**document, "init": {"weight": init, "bias": {"name": "zeros_"}}} if init else document


HEALTHY = spec(name="kaiming_normal_", nonlinearity="relu")
FAILING = spec("Sigmoid", depth=9)
WARNING = spec(depth=5, name="normal_", std=0.0684)  # each layer keeps 0.39 of the amplitude
TOO_SHORT = {"input": {"shape": [32]}, "layers": [{"type": "Linear", "out_features": 10}]}
STRICT = {
    "verdicts": "inferred",
    "name": "strict",
    "version": 2,
    "rules": {"vanishing_signal": {"warn": 0.9, "fail": 0.8}},
}


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # Any: a function of any arguments
    """Run the command on a spec, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(document: dict[str, Any] | str, *arguments: str) -> Result:
        text = document if isinstance(document, str) else json.dumps(document)
        Path("spec.json").write_text(text, encoding="utf-8")
        threads = torch.get_num_threads()
        try:
            return CliRunner().invoke(cli, ["audit", "spec.json", *arguments], catch_exceptions=False)
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.mark.parametrize(
    ("document", "arguments", "code", "says"),
    [
        (HEALTHY, (), 0, "audit passed: verdict pass"),
        (FAILING, (), 1, "audit failed: verdict fail"),
        (FAILING, ("--fail-on", "fail"), 1, "audit failed: verdict fail, with --fail-on fail"),
        (WARNING, ("--trial", "off"), 1, "audit failed: verdict warn"),
        (WARNING, ("--fail-on", "fail", "--trial", "off"), 0, "audit passed: verdict warn"),
        (TOO_SHORT, (), 3, "could not tell"),
        (TOO_SHORT, ("--fail-on", "fail"), 3, "could not tell"),
    ],
)
def test_the_exit_code_follows_from_the_verdict(
    audit: Any, document: dict[str, Any], arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = audit(document, *arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


@pytest.mark.parametrize(
    ("document", "arguments", "says"),
    [
        ("not json", (), "neither a model spec"),
        ({"input": {"shape": [32]}, "layers": [{"type": "Lineer"}]}, (), "layers/0"),
        (HEALTHY, ("--policy", "missing.json"), "missing.json cannot be read"),
        (HEALTHY, ("--fail-on", "info"), "'info' is not one of"),
        (HEALTHY, ("--json", "-", "--junit", "-"), "only one output can go to stdout"),
        (HEALTHY, ("--junit", "no/such/folder.xml"), "cannot be written"),
        (HEALTHY, ("--optimizer", "sgd,lr=-1"), "--optimizer"),
    ],
)
def test_wrong_arguments_exit_with_2_and_name_the_mistake(
    audit: Any, document: dict[str, Any] | str, arguments: tuple[str, ...], says: str
) -> None:
    result = audit(document, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_model_that_cannot_be_measured_exits_with_3(audit: Any) -> None:
    frozen = {"input": {"shape": [32]}, "layers": [{"type": "Linear", "out_features": 10, "frozen": True}]}
    result = audit(frozen)
    assert result.exit_code == 3
    assert "no_gradient" in result.stderr


def test_a_policy_changes_what_is_found(audit: Any) -> None:
    Path("policy.json").write_text(json.dumps(STRICT), encoding="utf-8")
    result = audit(WARNING, "--policy", "policy.json", "--json", "-", "--fail-on", "fail")
    assert result.exit_code == 1
    report = from_json(Report, result.stdout)
    assert report.policy is not None
    assert (report.policy.name, report.policy.version) == ("strict", 2)
    assert report.findings[0].threshold == 0.8


def test_the_policy_can_be_printed_edited_and_used(audit: Any) -> None:
    shown = CliRunner().invoke(cli, ["audit", "--show-policy"], catch_exceptions=False)
    assert shown.exit_code == 0
    document = json.loads(shown.stdout)
    assert document["rules"]["vanishing_signal"] == {"enabled": True, "warn": 1e-3, "fail": 1e-6}
    document |= {"name": "mine", "version": 4}
    document["rules"]["vanishing_signal"]["fail"] = 5e-4
    Path("mine.json").write_text(json.dumps(document), encoding="utf-8")
    assert audit(HEALTHY, "--policy", "mine.json", "--quiet").exit_code == 0


def test_a_missing_model_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["audit"])
    assert result.exit_code == 2
    assert "MODEL" in result.stderr


def test_a_wrong_policy_names_rule_and_field(audit: Any) -> None:
    Path("policy.json").write_text('{"name": "p", "rules": {"dead_units": {"warn": 30}}}', encoding="utf-8")
    result = audit(HEALTHY, "--policy", "policy.json")
    assert result.exit_code == 2
    assert "/rules/dead_units/warn" in result.stderr


def test_every_output_is_written_and_says_the_same(audit: Any) -> None:
    forms = ("json", "junit", "sarif", "html", "markdown")
    result = audit(FAILING, *(part for form in forms for part in (f"--{form}", f"out.{form}")))
    assert result.exit_code == 1
    texts = {form: Path(f"out.{form}").read_text(encoding="utf-8") for form in forms}
    rules = [finding.rule for finding in from_json(Report, texts["json"]).findings]
    assert rules[0] == "vanishing_signal"
    failed = ElementTree.fromstring(texts["junit"]).findall(".//testcase[failure]")
    (run,) = json.loads(texts["sarif"])["runs"]
    assert [case.get("name") for case in failed] == [
        finding.rule for finding in from_json(Report, texts["json"]).findings if finding.severity != "info"
    ]
    assert [found["ruleId"] for found in run["results"]] == rules
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "spec.json"
    for form in ("html", "markdown"):
        assert "shrinks" in texts[form]


def test_a_finding_in_sarif_is_on_the_line_of_its_layer(audit: Any) -> None:
    audit(json.dumps({**FAILING, "init": {"weight": {"name": "xavier_normal_"}}}, indent=1), "--sarif", "out.sarif")
    (run,) = json.loads(Path("out.sarif").read_text(encoding="utf-8"))["runs"]
    found = next(result for result in run["results"] if result["ruleId"] == "vanishing_signal")["locations"][0]
    text = Path("spec.json").read_text(encoding="utf-8").splitlines()
    line = found["physicalLocation"]["region"]["startLine"]
    assert found["logicalLocations"][0]["name"] == "0"
    assert (text[line - 1].strip(), text[line].strip()) == ("{", '"type": "Linear",')


def test_an_output_on_stdout_is_the_only_text_there(audit: Any) -> None:
    result = audit(HEALTHY, "--sarif", "-")
    assert json.loads(result.stdout)["version"] == "2.1.0"


def test_quiet_prints_nothing(audit: Any) -> None:
    assert audit(FAILING, "--quiet").output == ""


def judged(measured: Measurements, policy: Policy = DEFAULT_POLICY) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection=None, settings=InspectionSettings())


def test_a_signal_that_cannot_be_judged_is_not_a_pass_even_with_a_milder_finding() -> None:
    report = judged(changed(chain((), slope=1.0), "0", nonlinearity="tanh", saturated_fraction=0.3))
    assert report.verdict == "warn"
    assert audit_result(report, fail_on="warn") == "findings"
    assert audit_result(report, fail_on="fail") == "could_not_tell"


def test_a_policy_without_the_signal_rules_can_pass_without_a_signal() -> None:
    off = RulePolicy(enabled=False)
    policy = Policy(name="lenient", rules={"vanishing_signal": off, "exploding_signal": off})
    report = judged(chain(()), policy)
    assert audit_result(report) == "pass"


def test_a_report_without_outcomes_is_audited_by_its_verdict() -> None:
    report = judged(chain((), slope=1.0)).model_copy(update={"rules": (), "verdict": "pass"})
    assert audit_result(report) == "pass"
    assert audit_result(report.model_copy(update={"verdict": "undetermined"})) == "could_not_tell"
