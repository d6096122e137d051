"""Reports that clients measured: stored, judged again, marked, and equal to those that the service measures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from sqlalchemy import select

from gradinspect import inspect
from gradinspect.contracts.report.report import ModelReference, Report
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.resources import InspectionResource
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain
from service.context import EXTENSION, Context
from service.db.tables import ModelRecord
from service.store.report_files import report_json
from tests.support.callers import SPEC, pointers, problem
from tests.support.specimens import Ended, make_report

Body = dict[str, Any]


@pytest.fixture(scope="module")
def measured() -> Report:
    """Measure a spec on this machine."""
    return inspect(SPEC, optimizer={"type": "sgd", "lr": 0.1})


def document(report: Report) -> Body:
    body: Body = json.loads(report_json(report))
    return body


def pushed(client: FlaskClient, **body: object) -> InspectionResource:
    answer = client.post("/v1/reports", json=body)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return InspectionResource.model_validate_json(answer.get_data())


def test_a_pushed_report_is_an_inspection_that_succeeded(client: FlaskClient, measured: Report) -> None:
    answer = client.post("/v1/reports", json={"report": document(measured), "name": "mine", "labels": {"team": "a"}})
    assert answer.status_code == 201, answer.get_data(as_text=True)
    found = InspectionResource.model_validate_json(answer.get_data())
    assert answer.headers["Location"] == f"/v1/inspections/{found.id}"
    assert (found.status, found.measured_by, found.labels) == ("succeeded", "client", {"team": "a"})
    assert found.verdict == measured.verdict
    assert client.get(f"/v1/models/{found.model}").get_json()["name"] == "mine"
    assert client.get("/v1/inspections?name=mine&label=team=a").get_json()["items"][0]["id"] == found.id


def test_a_report_as_inspect_prints_it_is_a_complete_body(client: FlaskClient, measured: Report) -> None:
    answer = client.post("/v1/reports", json=document(measured))
    assert answer.status_code == 201


def test_a_pushed_and_a_measured_report_are_equal_but_for_the_environment(client: FlaskClient, ended: Ended) -> None:
    report, again = (inspect(SPEC, trial="off") for _ in range(2))  # a trial reports the seconds that it took
    by_service = ended(report, model_id=_registered(client))
    by_client = pushed(client, report=document(again)).id
    there, here = (client.get(f"/v1/inspections/{each}/report").get_json() for each in (by_service, by_client))
    assert (there.pop("measured_by"), here.pop("measured_by")) == ("service", "client")
    assert (there.pop("inspection"), here.pop("inspection")) == (by_service, by_client)
    for each in (there, here):
        del each["environment"], each["self_checks"]  # which checks are made depends on the CPU time of a pass
        each["model"] = each["model"]["kind"]  # the fixture judges for a reference without an id
    assert there == here


def _registered(client: FlaskClient) -> str:
    return str(client.post("/v1/models", json={"spec": SPEC}).get_json()["id"])


def test_a_push_of_a_registered_model_joins_its_history(client: FlaskClient, measured: Report) -> None:
    model = _registered(client)
    assert pushed(client, report=document(measured)).model == model


def test_reports_of_one_unregistered_model_share_a_row_and_those_of_another_do_not(
    app: APIFlask, client: FlaskClient
) -> None:
    report = document(make_report(parameter_count=3))
    report["model"] = {"kind": "module", "name": "Net"}
    other = {**report, "model": {"kind": "module", "name": "Other"}}
    first, second, third = (pushed(client, report=each).model for each in (report, report, other))
    assert first == second != third
    here: Context = app.extensions[EXTENSION]
    with here.database.read() as session:
        assert len(session.scalars(select(ModelRecord)).all()) == 2


def test_a_model_that_is_not_here_cannot_be_inspected_here_until_its_spec_comes(
    client: FlaskClient, measured: Report
) -> None:
    model = pushed(client, report=document(measured)).model
    assert client.get(f"/v1/models/{model}").get_json()["kind"] == "spec"
    found = problem(client.post("/v1/inspections", json={"model": model}), "invalid_request")
    assert pointers(found) == ["/model"]
    assert "reports of this model were pushed" in found["detail"]
    assert client.post("/v1/inspections", json={"model": {"spec": SPEC}}).get_json()["model"] == model
    assert client.post("/v1/inspections", json={"model": model}).status_code == 202


def test_the_verdict_the_words_and_the_code_of_a_push_are_made_here(client: FlaskClient) -> None:
    report = document(make_report())
    honest = document(inspect(SPEC))
    report |= {name: honest[name] for name in ("layers", "parameters", "summary", "depth_decay")}
    report["verdict"] = report["summary"]["verdict"] = "fail"
    report["findings"] = [
        {"rule": "vanishing_signal", "severity": "fail", "message": "forged", "explanation": "forged"}
    ]
    report["prescription"] = {"outcome": "found", "code": "import os; os.system('true')"}
    report["lr_scales"] = {"status": "measured", "verdict": "use", "code": "import os; os.system('true')"}
    stored = client.get(f"/v1/inspections/{pushed(client, report=report).id}/report").get_json()
    assert "forged" not in json.dumps(stored)
    assert "os.system" not in json.dumps(stored)
    assert stored["verdict"] == honest["verdict"]
    assert stored["environment"]["confinement"] == "none"


def test_a_push_is_marked_in_lists_rows_comparisons_and_csv(client: FlaskClient, ended: Ended) -> None:
    by_service, by_client = ended(), pushed(client, report=document(_chain_report())).id
    marks = {item["id"]: item["measured_by"] for item in client.get("/v1/inspections").get_json()["items"]}
    assert marks == {by_service: "service", by_client: "client"}
    listed = client.get("/v1/inspections?measured_by=client").get_json()["items"]
    assert [item["id"] for item in listed] == [by_client]
    rows = client.get("/v1/layers").get_json()["items"]
    assert {row["inspection"]: row["measured_by"] for row in rows} == marks
    compared = client.get(f"/v1/comparisons?base={by_service}&head={by_client}").get_json()
    assert (compared["base"]["measured_by"], compared["head"]["measured_by"]) == ("service", "client")
    for path in ("/v1/layers", f"/v1/inspections/{by_client}/report?format=csv&table=layers"):
        lines = client.get(path, headers={"Accept": "text/csv"}).get_data(as_text=True).splitlines()
        assert lines[0].endswith(",measured_by")
        assert any(line.endswith(",client") for line in lines[1:])


def _chain_report() -> Report:
    model, settings = ModelReference(kind="spec"), InspectionSettings()
    return judge(chain((0.1,) * 5), policy=DEFAULT_POLICY, model=model, inspection=None, settings=settings)


def test_one_idempotency_key_makes_one_inspection(client: FlaskClient) -> None:
    body = {"report": document(make_report())}
    first, second = (client.post("/v1/reports", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert first.get_json()["id"] == second.get_json()["id"]
    changed = {**body, "name": "other"}
    answer = client.post("/v1/reports", json=changed, headers={"Idempotency-Key": "k"})
    problem(answer, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"policy": "nobody"}, "/policy"),
        ({"run": "run_00000000-0000-7000-8000-000000000000", "step": 1}, "/run"),
        ({"nobody": 1}, "/nobody"),
        ({"labels": {"": "x"}}, "/labels/"),
    ],
)
def test_wrong_fields_beside_the_report_are_named(client: FlaskClient, change: Body, pointer: str) -> None:
    found = problem(client.post("/v1/reports", json={"report": document(make_report()), **change}), "invalid_request")
    assert any(each.startswith(pointer) for each in pointers(found)), found


@pytest.mark.parametrize(
    "change", [{"run": "run_00000000-0000-7000-8000-000000000000"}, {"training": {"learning_rates": [0.1]}}]
)
def test_run_and_training_go_with_step(client: FlaskClient, change: Body) -> None:
    problem(client.post("/v1/reports", json={"report": document(make_report()), **change}), "invalid_request")


def test_a_report_whose_parts_contradict_each_other_is_refused_or_judged_and_nothing_breaks(
    client: FlaskClient, measured: Report
) -> None:
    honest = document(measured)
    contradictions: list[Body] = [
        {"layers": honest["layers"] * 2},
        {"parameters": []},
        {"layers": [{**row, "parameters": ["nobody"]} for row in honest["layers"]]},
        {"layers": [{**row, "depth": 7} for row in honest["layers"]]},
        {"parameters": [{**row, "numel": 0, "shape": []} for row in honest["parameters"]]},
    ]
    for changes in contradictions:
        answer = client.post("/v1/reports", json={"report": {**honest, **changes}})
        assert answer.status_code in (201, 422), answer.get_data(as_text=True)
        if answer.status_code == 201:
            page = client.get(answer.get_json()["links"]["page"], headers={"Accept": "text/html"})
            assert page.status_code == 200


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"environment": {}}, "/report/environment"),
        ({"layers": [{"depth": -1}]}, "/report/layers/0"),
        ({"summary": {"loss": "1"}}, "/report/summary"),
        ({"surprise": 1}, "/report/surprise"),
        ({"model": {"kind": "module", "name": "x" * 300}}, "/report/model/name"),
    ],
)
def test_a_report_is_validated_as_a_childs_result_is(client: FlaskClient, changes: Body, pointer: str) -> None:
    report = {**document(make_report()), **changes}
    found = problem(client.post("/v1/reports", json={"report": report}), "invalid_request")
    assert all(each.startswith(pointer) for each in pointers(found)), found


@pytest.mark.parametrize(
    "text", ['{"report": NaN}', '{"report": {"a": 1, "a": 2}}', "[" * 100 + "]" * 100, '{"report": "\\ud800"}']
)
def test_what_is_no_strict_json_is_refused(client: FlaskClient, text: str) -> None:
    answer = client.post("/v1/reports", data=text, content_type="application/json")
    problem(answer, "malformed_json")


def test_a_report_over_the_limit_is_refused_before_it_is_read(client: FlaskClient, app: APIFlask) -> None:
    limit = app.extensions[EXTENSION].settings.max_report_body_bytes
    claimed = {"CONTENT_LENGTH": str(limit + 1)}
    answer = client.post("/v1/reports", data=b"{}", environ_overrides=claimed, content_type="application/json")
    problem(answer, "too_large")


def test_names_of_a_push_are_escaped_on_its_page(client: FlaskClient) -> None:
    report = document(make_report())
    report["model"] = {"kind": "module", "name": "<script>alert(1)</script>\u202e"}
    found = pushed(client, report=report)
    page = client.get(found.links.page, headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "<script>alert" not in page
    assert "measured by a client" in page
