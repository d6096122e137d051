"""Training runs: steps are pushed, the series is read, the end is recorded, and deletion takes everything."""

from __future__ import annotations

import json
from typing import Any

from apiflask import APIFlask
from flask.testing import FlaskClient

from gradinspect.contracts.wire.runs import MAX_STEPS
from service.context import EXTENSION, Context
from service.db.tables import InspectionRecord
from service.store.report_files import report_json
from tests.support.callers import pointers, problem
from tests.support.specimens import layer, make_report, parameter


def begun(client: FlaskClient, **fields: object) -> str:
    answer = client.post("/v1/runs", json=fields)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    assert answer.headers["Location"] == f"/v1/runs/{answer.get_json()['id']}"
    return str(answer.get_json()["id"])


def push(client: FlaskClient, run: str, step: int, *, gain: float = 0.5, **training: object) -> dict[str, Any]:
    layers = tuple(layer(depth, cumulative_backward_gain=gain**depth) for depth in range(4))
    body = {
        "report": json.loads(report_json(make_report(layers, (parameter(),)))), "run": run, "step": step,
        "training": {"learning_rates": [0.1], **training},
    }  # fmt: skip
    answer = client.post("/v1/reports", json=body)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    found: dict[str, Any] = answer.get_json()
    return found


def test_a_run_is_the_series_of_its_steps(client: FlaskClient) -> None:
    run = begun(client, name="resnet", every=20, labels={"team": "vision"})
    for step in (40, 0, 20):  # in any order
        push(client, run, step, gain=0.5 / (step + 1), applied_grad_norm=1.0)
    series = client.get(f"/v1/runs/{run}").get_json()
    assert (series["name"], series["every"], series["labels"]) == ("resnet", 20, {"team": "vision"})
    assert (series["steps"], series["last_step"], series["end"]) == (3, 40, None)
    assert [point["step"] for point in series["points"]] == [0, 20, 40]
    assert series["points"][0]["training"]["applied_grad_norm"] == 1.0
    assert series["signals"]["steps"] == [0, 20, 40]
    assert series["signals"]["depths"] == [0, 1, 2, 3]
    assert series["signals"]["gains"][0] == [1.0, 0.5, 0.25, 0.125]
    for finding in series["findings"]:
        seen = [point["step"] for point in series["points"] if finding["rule"] in point["rules"]]
        if finding["severity"] != "info":
            assert (finding["first_step"], finding["last_step"], finding["steps"]) == (seen[0], seen[-1], len(seen))


def test_a_step_is_an_inspection_that_knows_its_run(client: FlaskClient) -> None:
    run = begun(client)
    found = push(client, run, 7)
    assert (found["run"], found["step"], found["measured_by"]) == (run, 7, "client")
    assert [item["id"] for item in client.get(f"/v1/inspections?run={run}").get_json()["items"]] == [found["id"]]


def test_a_step_is_stored_once(client: FlaskClient) -> None:
    run = begun(client)
    push(client, run, 7)
    body = {"report": json.loads(report_json(make_report())), "run": run, "step": 7}
    found = problem(client.post("/v1/reports", json=body), "conflict")
    assert "step 7 already" in found["detail"]


def test_an_ended_run_takes_no_more_steps_and_remembers_why(client: FlaskClient) -> None:
    run = begun(client)
    push(client, run, 0)
    end = {"outcome": "stopped", "step": 0, "rule": "non_finite"}
    assert client.post(f"/v1/runs/{run}/end", json=end).get_json()["end"]["rule"] == "non_finite"
    assert client.post(f"/v1/runs/{run}/end", json=end).status_code == 200
    problem(client.post(f"/v1/runs/{run}/end", json={"outcome": "completed"}), "conflict")
    body = {"report": json.loads(report_json(make_report())), "run": run, "step": 20}
    problem(client.post("/v1/reports", json=body), "conflict")


def test_runs_are_listed_newest_first_in_pages(client: FlaskClient) -> None:
    runs = [begun(client, name=name) for name in ("a", "b", "a")]
    push(client, runs[2], 5)
    page = client.get("/v1/runs?limit=2").get_json()
    assert [item["id"] for item in page["items"]] == [runs[2], runs[1]]
    assert (page["items"][0]["steps"], page["items"][0]["last_step"]) == (1, 5)
    rest = client.get(f"/v1/runs?limit=2&cursor={page['next_cursor']}").get_json()
    assert [item["id"] for item in rest["items"]] == [runs[0]]
    named = client.get("/v1/runs?name=a").get_json()["items"]
    assert [item["id"] for item in named] == [runs[2], runs[0]]


def test_a_deleted_run_takes_its_steps_with_it(client: FlaskClient) -> None:
    run = begun(client)
    step = push(client, run, 0)["id"]
    assert client.delete(f"/v1/runs/{run}").status_code == 204
    problem(client.get(f"/v1/runs/{run}"), "not_found")
    problem(client.get(f"/v1/inspections/{step}"), "not_found")
    problem(client.delete(f"/v1/runs/{run}"), "not_found")


def test_a_run_of_another_tenant_is_not_found(app: APIFlask, client: FlaskClient) -> None:
    from service.db import runs as rows
    from service.db.tables import RunRecord

    here: Context = app.extensions[EXTENSION]
    with here.database.write() as session:
        theirs = RunRecord(id="run_01990000-0000-7000-8000-000000000000", tenant_id="other", labels={})
        session.add(theirs)
    for answer in (
        client.get("/v1/runs/run_01990000-0000-7000-8000-000000000000"),
        client.delete("/v1/runs/run_01990000-0000-7000-8000-000000000000"),
        client.post("/v1/runs/run_01990000-0000-7000-8000-000000000000/end", json={"outcome": "completed"}),
    ):
        problem(answer, "not_found")
    body = {
        "report": json.loads(report_json(make_report())), "run": "run_01990000-0000-7000-8000-000000000000", "step": 0
    }  # fmt: skip
    assert pointers(problem(client.post("/v1/reports", json=body), "invalid_request")) == ["/run"]
    assert client.get("/v1/runs").get_json()["items"] == []
    with here.database.read() as session:
        assert rows.get(session, "run_01990000-0000-7000-8000-000000000000", tenant="other").id


def test_a_full_run_is_refused_more_steps(app: APIFlask, client: FlaskClient) -> None:
    run = begun(client)
    found = push(client, run, 0)
    here: Context = app.extensions[EXTENSION]
    with here.database.write() as session:
        first = session.get_one(InspectionRecord, (found["id"], "default"))
        shared = {name: getattr(first, name) for name in ("tenant_id", "model_id", "request", "labels", "policy")}
        shared |= {"policy_document": {}, "queue": "cpu", "run_id": run, "status": "succeeded", "verdict": "pass"}
        session.add_all(InspectionRecord(id=f"insp_{step}", step=step, **shared) for step in range(1, MAX_STEPS))
    body = {"report": json.loads(report_json(make_report())), "run": run, "step": MAX_STEPS}
    found = problem(client.post("/v1/reports", json=body), "conflict")
    assert "the limit" in found["detail"]
    series = client.get(f"/v1/runs/{run}").get_json()
    assert len(series["points"]) == MAX_STEPS
    assert series["signals"]["steps"][0] == 0
    assert series["signals"]["steps"][-1] == MAX_STEPS - 1
