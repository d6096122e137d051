"""The results of an inspection in every representation."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from flask.testing import FlaskClient

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.sections import LrScales, Noise, ScaleGroup
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.wire.resources import FindingsResource
from gradinspect.testing.measurements import chain, changed
from tests.support.callers import REQUEST, pointers, problem
from tests.support.sample_reports import PRESCRIPTION
from tests.support.specimens import Ended

SUGGESTION = LrScales(
    verdict="use", method="newton", base_lr=0.1, code="import torch\n",
    groups=(ScaleGroup(layer="0", parameters=("0.weight",), scale=2.0),),
)  # fmt: skip


def test_the_report_is_json_by_default(client: FlaskClient, ended: Ended) -> None:
    inspection = ended(chain((0.1,) * 5, noise=Noise(status="undetermined", reason="one sample")))
    answer = client.get(f"/v1/inspections/{inspection}/report")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    report = Report.model_validate_json(answer.get_data())
    assert (report.inspection, report.verdict, len(report.layers)) == (inspection, "warn", 6)
    found = answer.get_json()
    assert found["noise"]["status"] == "undetermined"
    assert "curvature" not in found  # it was not requested


def test_an_unchanged_report_is_a_304(client: FlaskClient, ended: Ended) -> None:
    place = f"/v1/inspections/{ended()}/report"
    tag = client.get(place).headers["ETag"]
    again = client.get(place, headers={"If-None-Match": tag})
    assert (again.status_code, again.get_data()) == (304, b"")
    table = client.get(place, headers={"If-None-Match": tag, "Accept": "text/csv"})
    assert table.status_code == 200


@pytest.mark.parametrize(("query", "accept"), [("", "text/csv"), ("?format=csv", "*/*")])
def test_parameters_are_available_as_csv(client: FlaskClient, ended: Ended, query: str, accept: str) -> None:
    answer = client.get(f"/v1/inspections/{ended()}/report{query}", headers={"Accept": accept})
    assert answer.mimetype == "text/csv"
    rows = list(csv.DictReader(StringIO(answer.get_data(as_text=True))))
    assert [row["name"] for row in rows[:2]] == ["0.weight", "0.bias"]
    assert (float(rows[0]["grad_norm"]), rows[0]["shape"], rows[0]["hessian_trace"]) == (0.5, "[64,64]", "")


def test_layers_are_available_as_csv(client: FlaskClient, ended: Ended) -> None:
    answer = client.get(f"/v1/inspections/{ended()}/report?format=csv&table=layers")
    rows = list(csv.DictReader(StringIO(answer.get_data(as_text=True))))
    assert len(rows) == 6
    assert float(rows[0]["signal_rms"]) == pytest.approx(1e-5 / 64)
    assert "attachment" in answer.headers["Content-Disposition"]


def test_a_name_that_a_spreadsheet_would_run_is_escaped(client: FlaskClient, ended: Ended) -> None:
    measured = changed(chain(), "2", name='=HYPERLINK("http://example.com")')
    text = client.get(f"/v1/inspections/{ended(measured)}/report?format=csv&table=layers").get_data(as_text=True)
    names = [row["name"] for row in csv.DictReader(StringIO(text))]
    assert names[2].startswith("'=")


def test_the_html_report_is_self_contained(client: FlaskClient, ended: Ended) -> None:
    answer = client.get(f"/v1/inspections/{ended()}/report", headers={"Accept": "text/html"})
    assert answer.mimetype == "text/html"
    text = answer.get_data(as_text=True)
    assert "The backward signal shrinks 100,000-fold" in text
    assert "<script" not in text
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_an_unavailable_representation_is_a_406(client: FlaskClient, ended: Ended) -> None:
    problem(client.get(f"/v1/inspections/{ended()}/report", headers={"Accept": "image/png"}), "not_acceptable")


@pytest.mark.parametrize("part", ["report", "findings", "lr-scales", "prescription", "layers", "parameters"])
def test_results_of_an_unfinished_inspection_are_a_409(client: FlaskClient, part: str) -> None:
    inspection = client.post("/v1/inspections", json=REQUEST).get_json()["id"]
    answer = client.get(f"/v1/inspections/{inspection}/{part}")
    problem(answer, "not_finished")
    assert answer.headers["Retry-After"] == "1"
    client.post(f"/v1/inspections/{inspection}/cancel")
    found = problem(client.get(f"/v1/inspections/{inspection}/{part}"), "no_report")
    assert found["detail"] == "the inspection was cancelled and has no report"


def test_findings_are_as_they_were_stored(client: FlaskClient, ended: Ended) -> None:
    found = FindingsResource.model_validate_json(client.get(f"/v1/inspections/{ended()}/findings").get_data())
    assert (found.verdict, found.policy.name) == ("warn", "default")
    assert [finding.rule for finding in found.items] == ["vanishing_signal"]


def test_a_stored_report_is_judged_by_another_policy(client: FlaskClient, ended: Ended) -> None:
    inspection = ended()
    rules = {"vanishing_signal": {"warn": 0.1, "fail": 0.01}}
    policy = client.post("/v1/policies", json={"name": "strict", "rules": rules}).get_json()["id"]
    for reference in (policy, "strict"):
        found = client.get(f"/v1/inspections/{inspection}/findings?policy={reference}").get_json()
        assert (found["verdict"], found["items"][0]["severity"]) == ("fail", "fail")
        assert found["policy"] == {"name": "strict", "version": 1}
    assert client.get(f"/v1/inspections/{inspection}/findings?policy=default").get_json()["verdict"] == "warn"
    assert client.get(f"/v1/inspections/{inspection}").get_json()["verdict"] == "warn"  # the stored report is unchanged


def test_a_policy_that_does_not_exist_is_a_wrong_parameter(client: FlaskClient, ended: Ended) -> None:
    found = problem(client.get(f"/v1/inspections/{ended()}/findings?policy=nobody"), "invalid_request")
    assert pointers(found) == ["/query/policy"]


def test_scales_come_as_json_and_as_code(client: FlaskClient, ended: Ended) -> None:
    place = f"/v1/inspections/{ended(chain(lr_scales=SUGGESTION))}/lr-scales"
    assert LrScales.model_validate_json(client.get(place).get_data()) == SUGGESTION
    for answer in (client.get(f"{place}?format=torch"), client.get(place, headers={"Accept": "text/x-python"})):
        assert (answer.mimetype, answer.get_data(as_text=True)) == ("text/x-python", SUGGESTION.code)


def test_scales_that_were_not_requested_are_a_409(client: FlaskClient, ended: Ended) -> None:
    problem(client.get(f"/v1/inspections/{ended()}/lr-scales"), "not_requested")


def test_scales_without_code_give_the_reason(client: FlaskClient, ended: Ended) -> None:
    nothing = LrScales(status="undetermined", reason="the loss is not finite")
    inspection = ended(chain(lr_scales=nothing))
    found = problem(client.get(f"/v1/inspections/{inspection}/lr-scales?format=torch"), "not_requested")
    assert "not finite" in found["detail"]


def test_a_prescription_comes_as_json_and_as_code(client: FlaskClient, ended: Ended) -> None:
    place = f"/v1/inspections/{ended(chain(prescription=PRESCRIPTION))}/prescription"
    assert Prescription.model_validate_json(client.get(place).get_data()) == PRESCRIPTION
    for answer in (client.get(f"{place}?format=torch"), client.get(place, headers={"Accept": "text/x-python"})):
        assert (answer.mimetype, answer.get_data(as_text=True)) == ("text/x-python", PRESCRIPTION.code)


def test_without_a_trial_the_prescription_is_a_409(client: FlaskClient, ended: Ended) -> None:
    problem(client.get(f"/v1/inspections/{ended()}/prescription"), "not_requested")


def test_a_prescription_without_code_gives_the_reason(client: FlaskClient, ended: Ended) -> None:
    nothing = Prescription(outcome="not_found", reason="the budget ended")
    inspection = ended(chain(prescription=nothing))
    assert client.get(f"/v1/inspections/{inspection}/prescription").get_json()["outcome"] == "not_found"
    found = problem(client.get(f"/v1/inspections/{inspection}/prescription?format=torch"), "not_requested")
    assert "the budget ended" in found["detail"]


@pytest.mark.parametrize(
    "part", ["", "/report", "/findings", "/lr-scales", "/prescription", "/layers", "/parameters", "/events"]
)
def test_an_inspection_that_does_not_exist_is_a_404_everywhere(client: FlaskClient, part: str) -> None:
    for name in ("insp_00000000-0000-7000-8000-000000000000", "insp_1", "%00", "mdl_1"):
        problem(client.get(f"/v1/inspections/{name}{part}"), "not_found")
