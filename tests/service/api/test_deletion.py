"""DELETE of an ended inspection removes rows, labels and report together."""

from __future__ import annotations

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from gradinspect.contracts.problems import ProblemError
from service.context import EXTENSION, Context
from service.db import retention
from service.lifecycle import deletion
from tests.support.callers import problem
from tests.support.specimens import TENANT, Ended, submit, take


def context_of(app: APIFlask) -> Context:
    here: Context = app.extensions[EXTENSION]
    return here


def test_a_deleted_inspection_leaves_nothing_behind(app: APIFlask, client: FlaskClient, ended: Ended) -> None:
    gone, stays = ended(labels={"team": "vision"}), ended(labels={"team": "vision"})
    assert client.delete(f"/v1/inspections/{gone}").status_code == 204
    for part in ("", "/report", "/layers", "/findings", "/events"):
        problem(client.get(f"/v1/inspections/{gone}{part}"), "not_found")
    problem(client.delete(f"/v1/inspections/{gone}"), "not_found")
    assert [item["id"] for item in client.get("/v1/inspections?label=team").get_json()["items"]] == [stays]
    assert {row["inspection"] for row in client.get("/v1/layers?limit=500").get_json()["items"]} == {stays}
    assert list(context_of(app).store.reports.listed(older_than_seconds=-1)) == [f"{stays}.1"]


def test_an_inspection_that_has_not_ended_is_cancelled_first(app: APIFlask, client: FlaskClient) -> None:
    database = context_of(app).database
    queued, running = submit(database).id, submit(database).id
    take(database, running)
    for inspection_id, status in ((queued, "queued"), (running, "running")):
        found = problem(client.delete(f"/v1/inspections/{inspection_id}"), "not_finished")
        assert f"the inspection is {status}; cancel it first" in found["detail"]
        client.post(f"/v1/inspections/{inspection_id}/cancel")
        assert client.delete(f"/v1/inspections/{inspection_id}").status_code == 204


def test_an_inspection_of_another_tenant_is_not_found(app: APIFlask, ended: Ended) -> None:
    here, inspection = context_of(app), ended()
    with pytest.raises(ProblemError) as problem_:
        deletion.delete_inspection(here.database, here.store, inspection, tenant="other")
    assert problem_.value.code == "not_found"
    with here.database.write() as session:
        assert not retention.hide(session, inspection, tenant="other")


def test_a_deletion_that_was_interrupted_is_finished_by_the_maintainer(app: APIFlask, ended: Ended) -> None:
    here, inspection = context_of(app), ended()
    with here.database.write() as session:
        assert retention.hide(session, inspection, tenant=TENANT)
    with here.database.read() as session:
        assert [item.inspection_id for item in retention.marked(session, grace_seconds=-1)] == [inspection]


def test_a_deleted_inspection_still_counts_in_the_metrics(client: FlaskClient, ended: Ended) -> None:
    client.delete(f"/v1/inspections/{ended()}")
    assert 'gradinspect_inspections_total{status="succeeded"} 1.0' in client.get("/metrics").get_data(as_text=True)


def test_a_name_next_to_an_inline_spec_is_the_models_name(client: FlaskClient) -> None:
    spec = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 2}]}

    def sent(**name: str) -> dict[str, str]:
        found: dict[str, str] = client.post("/v1/inspections", json={"model": {"spec": spec, **name}}).get_json()
        return found

    first, again, other, unnamed = sent(name="mlp"), sent(name="mlp"), sent(name="mlp 2"), sent()
    assert first["model"] == again["model"]
    assert len({first["model"], other["model"], unnamed["model"]}) == 3
    assert unnamed["model"] == sent()["model"]
    assert client.get(f"/v1/models/{first['model']}").get_json()["name"] == "mlp"
    found = client.get("/v1/inspections?name=mlp").get_json()["items"]
    assert [item["id"] for item in found] == [again["id"], first["id"]]
    page = client.get("/").get_data(as_text=True)
    assert ">mlp 2</a>" in page
    assert ">1 Linear</a>" in page, "a spec without a name is described by its layers"
