"""Inspections: submission, idempotency, waiting, lists and cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from gradinspect.contracts.wire.resources import InspectionResource
from service.app import create_app
from service.context import EXTENSION, Context
from service.db import clock, leases
from service.db.tables import InspectionRecord, ModelRecord
from service.settings import Settings
from tests.support.callers import REQUEST, SPEC, pointers, problem
from tests.support.specimens import Ended, take

WAIT_SECONDS = 30


def context_of(app: APIFlask) -> Context:
    here: Context = app.extensions[EXTENSION]
    return here


def submitted(client: FlaskClient, **fields: object) -> str:
    answer = client.post("/v1/inspections", json={**REQUEST, **fields})
    assert answer.status_code == 202
    return str(answer.get_json()["id"])


def test_a_model_alone_is_a_complete_request(client: FlaskClient) -> None:
    model = client.post("/v1/models", json={"spec": SPEC}).get_json()["id"]
    answer = client.post("/v1/inspections", json={"model": model})
    assert answer.status_code == 202
    found = InspectionResource.model_validate_json(answer.get_data())
    assert answer.headers["Location"] == f"/v1/inspections/{found.id}" == found.links.self
    assert answer.headers["Retry-After"] == "1"
    assert (found.status, found.model, found.verdict, found.summary, found.error) == ("queued", model, None, None, None)
    assert client.get(answer.headers["Location"]).get_json() == answer.get_json()


def test_an_accepted_inspection_is_published_at_once(app: APIFlask, client: FlaskClient) -> None:
    submitted(client)
    assert context_of(app).dispatcher.depths(("cpu",)) == {"cpu": 1}
    with context_of(app).database.read() as session:
        record = session.scalars(select(InspectionRecord)).one()
    assert record.dispatched_at is not None
    assert record.dispatches == 1


def test_an_inspection_submitted_without_a_broker_is_not_lost(settings_of_sqlite: Settings) -> None:
    app = create_app(settings_of_sqlite)
    answer = app.test_client().post("/v1/inspections", json=REQUEST)
    assert answer.status_code == 202
    with context_of(app).database.read() as session:
        record = session.scalars(select(InspectionRecord)).one()
    assert (record.status, record.dispatches) == ("queued", 0)


def test_a_model_that_does_not_exist_is_a_wrong_field(client: FlaskClient) -> None:
    body = {"model": "mdl_00000000-0000-7000-8000-000000000000"}
    found = problem(client.post("/v1/inspections", json=body), "invalid_request")
    assert pointers(found) == ["/model"]
    assert "there is no model mdl_00000000-0000-7000-8000-000000000000" in found["detail"]


def test_a_policy_that_does_not_exist_is_a_wrong_field(client: FlaskClient) -> None:
    found = problem(client.post("/v1/inspections", json={**REQUEST, "policy": "nobody"}), "invalid_request")
    assert pointers(found) == ["/policy"]


def test_data_that_was_not_uploaded_is_a_wrong_field(client: FlaskClient) -> None:
    data = {"artifact": f"sha256:{'0' * 64}", "inputs": ["x"]}
    found = problem(client.post("/v1/inspections", json={**REQUEST, "data": data}), "invalid_request")
    assert pointers(found) == ["/data/artifact"]
    assert "upload it first" in found["detail"]


def test_a_key_whose_inspection_was_deleted_is_a_wrong_header(app: APIFlask, client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "once"}
    client.post("/v1/inspections", json=REQUEST, headers=headers)
    with context_of(app).database.write() as session:
        session.scalars(select(InspectionRecord)).one().deleted_at = clock.now()
    found = problem(client.post("/v1/inspections", json=REQUEST, headers=headers), "invalid_request")
    assert pointers(found) == ["/headers/Idempotency-Key"]


def test_a_model_without_parameters_is_not_queued(client: FlaskClient) -> None:
    spec = {"input": {"shape": [4]}, "layers": [{"type": "ReLU"}]}
    found = problem(client.post("/v1/inspections", json={"model": {"spec": spec}}), "invalid_spec")
    assert pointers(found) == ["/model/spec/layers"]
    assert "such as Linear" in found["errors"][0]["detail"]
    model = client.post("/v1/models", json={"spec": spec}).get_json()["id"]
    found = problem(client.post("/v1/inspections", json={"model": model}), "invalid_request")
    assert pointers(found) == ["/model"]
    assert "such as Linear" in found["detail"]
    assert client.post("/v1/models:validate", json={"spec": spec}).get_json()["parameters"] == 0
    assert ids(client.get("/v1/inspections")) == []


@pytest.mark.parametrize("value", ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", "then", "5"])
def test_the_error_for_an_unreadable_time_shows_the_right_form(client: FlaskClient, value: str) -> None:
    found = problem(client.get(f"/v1/inspections?created_after={value}"), "invalid_request")
    assert pointers(found) == ["/query/created_after"]
    for detail in (found["detail"], found["errors"][0]["detail"]):
        assert "2026-01-31T12:00:00Z" in detail
        assert "%2B" in detail


def test_a_time_in_the_shown_form_is_accepted(client: FlaskClient) -> None:
    mine = submitted(client)
    for value in ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00%2B00:00"):
        assert ids(client.get(f"/v1/inspections?created_after={value}")) == [mine]


def test_a_spec_takes_one_input(client: FlaskClient) -> None:
    tensor = {"kind": "normal", "shape": [4, 16]}
    answer = client.post("/v1/inspections", json={**REQUEST, "data": {"inputs": [tensor, tensor]}})
    assert pointers(problem(answer, "invalid_request")) == ["/data/inputs"]


def test_data_is_checked_against_a_registered_spec(client: FlaskClient) -> None:
    model = client.post("/v1/models", json={"spec": SPEC}).get_json()["id"]
    wide = {"inputs": [{"kind": "normal", "shape": [4, 17]}]}
    many = {"target": {"kind": "classes", "num_classes": 5}}
    for data, place in ((wide, "/data/inputs/0/shape"), (many, "/data/target/num_classes")):
        answer = client.post("/v1/inspections", json={"model": model, "data": data})
        assert pointers(problem(answer, "invalid_request")) == [place]


def test_a_missing_gpu_is_a_wrong_field(client: FlaskClient) -> None:
    found = problem(client.post("/v1/inspections", json={**REQUEST, "device": "cuda"}), "invalid_request")
    assert pointers(found) == ["/device"]


def test_a_wrong_spec_names_the_layer(client: FlaskClient) -> None:
    spec = {**SPEC, "layers": [*SPEC["layers"], {"type": "Linear", "in_features": 5, "out_features": 2}]}
    found = problem(client.post("/v1/inspections", json={"model": {"spec": spec}}), "invalid_spec")
    assert pointers(found) == ["/model/spec/layers/3/in_features"]


def test_the_same_inline_spec_is_one_model(app: APIFlask, client: FlaskClient) -> None:
    first, second = submitted(client), submitted(client, seed=1)
    assert first != second
    with context_of(app).database.read() as session:
        assert session.scalar(select(func.count()).select_from(ModelRecord)) == 1


def test_a_full_queue_is_a_429_with_retry_after(settings_of_sqlite: Settings) -> None:
    client = create_app(settings_of_sqlite.model_copy(update={"max_queued": 2})).test_client()
    submitted(client)
    submitted(client)
    answer = client.post("/v1/inspections", json=REQUEST)
    problem(answer, "too_many_inspections")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_key_gives_the_first_inspection_again(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "a1"}
    first = client.post("/v1/inspections", json=REQUEST, headers=headers)
    # The same request in another form: defaults written out, keys in another order.
    again = client.post("/v1/inspections", json={"seed": 0, "loss": "cross_entropy", **REQUEST}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.get_json()["id"] == again.get_json()["id"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_of_another_request_is_refused(client: FlaskClient) -> None:
    client.post("/v1/inspections", json=REQUEST, headers={"Idempotency-Key": "a1"})
    answer = client.post("/v1/inspections", json={**REQUEST, "seed": 1}, headers={"Idempotency-Key": "a1"})
    problem(answer, "idempotency_mismatch")


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "schlüssel"])
def test_a_malformed_key_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post("/v1/inspections", json=REQUEST, headers={"Idempotency-Key": key})
    assert pointers(problem(answer, "invalid_request")) == ["/headers/Idempotency-Key"]


def test_a_refused_request_does_not_reserve_its_key(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "a1"}
    problem(client.post("/v1/inspections", json={**REQUEST, "policy": "nobody"}, headers=headers), "invalid_request")
    assert client.post("/v1/inspections", json=REQUEST, headers=headers).status_code == 202


def test_two_hundred_clients_with_one_key_get_one_inspection(app: APIFlask) -> None:
    barrier = threading.Barrier(20)

    def ask(turn: int) -> tuple[int, str]:
        if turn < 20:
            barrier.wait(WAIT_SECONDS)
        answer = app.test_client().post("/v1/inspections", json=REQUEST, headers={"Idempotency-Key": "one"})
        return answer.status_code, answer.get_json().get("id", answer.get_json().get("code"))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(200)))
    with context_of(app).database.read() as session:
        made = session.scalars(select(InspectionRecord.id)).all()
    assert len(made) == 1
    assert set(answers) <= {(202, made[0]), (409, "idempotency_in_progress")}
    assert (202, made[0]) in answers


def finish_later(app: APIFlask, inspection_id: str) -> Callable[[], None]:
    """Cancel an inspection once a request waits for it."""

    def finish() -> None:
        here, deadline = context_of(app), monotonic() + WAIT_SECONDS
        while here.long_polls._free._value == here.settings.max_long_polls and monotonic() < deadline:
            threading.Event().wait(0.005)
        app.test_client().post(f"/v1/inspections/{inspection_id}/cancel")

    return finish


def test_a_long_poll_ends_when_the_inspection_does(app: APIFlask, client: FlaskClient) -> None:
    inspection_id = submitted(client)
    ending = threading.Thread(target=finish_later(app, inspection_id))
    ending.start()
    answer = client.get(f"/v1/inspections/{inspection_id}?wait=30")
    ending.join()
    assert answer.get_json()["status"] == "cancelled"
    assert "Retry-After" not in answer.headers


def test_a_long_poll_that_times_out_shows_the_present_state(client: FlaskClient) -> None:
    answer = client.get(f"/v1/inspections/{submitted(client)}?wait=0.01")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "queued")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("wait", ["31", "-1", "nan", "soon", ""])
def test_an_invalid_wait_is_refused(client: FlaskClient, wait: str) -> None:
    found = problem(client.get(f"/v1/inspections/{submitted(client)}?wait={wait}"), "invalid_request")
    assert pointers(found) == ["/query/wait"]


def test_a_request_without_a_free_waiting_slot_is_answered_at_once(settings_of_sqlite: Settings) -> None:
    app = create_app(settings_of_sqlite.model_copy(update={"max_long_polls": 1}))
    inspection_id = submitted(app.test_client())
    assert context_of(app).long_polls.acquire()
    started = monotonic()
    answer = app.test_client().get(f"/v1/inspections/{inspection_id}?wait=30")
    assert answer.get_json()["status"] == "queued"
    assert monotonic() - started < WAIT_SECONDS  # otherwise the request would have waited for the whole time


def test_a_preferred_wait_is_applied_and_confirmed(client: FlaskClient) -> None:
    answer = client.post("/v1/inspections", json=REQUEST, headers={"Prefer": "respond-async, wait=0"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait=0")


def test_an_inspection_that_ended_within_the_wait_is_a_200(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "a1"}
    first = client.post("/v1/inspections", json=REQUEST, headers=headers).get_json()["id"]
    client.post(f"/v1/inspections/{first}/cancel")
    answer = client.post("/v1/inspections", json=REQUEST, headers={**headers, "Prefer": "wait=30"})
    assert (answer.status_code, answer.get_json()["status"]) == (200, "cancelled")
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("preference", ["wait=soon", "handling=lenient", "wait=-1", "wait"])
def test_an_unreadable_preference_is_ignored(client: FlaskClient, preference: str) -> None:
    answer = client.post("/v1/inspections", json=REQUEST, headers={"Prefer": preference})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_an_unchanged_inspection_is_a_304(client: FlaskClient) -> None:
    inspection_id = submitted(client)
    tag = client.get(f"/v1/inspections/{inspection_id}").headers["ETag"]
    same = client.get(f"/v1/inspections/{inspection_id}", headers={"If-None-Match": tag})
    assert (same.status_code, same.get_data()) == (304, b"")
    client.post(f"/v1/inspections/{inspection_id}/cancel")
    assert client.get(f"/v1/inspections/{inspection_id}", headers={"If-None-Match": tag}).status_code == 200


def test_an_inspection_that_ended_well_has_its_summary(client: FlaskClient, ended: Ended) -> None:
    found = client.get(f"/v1/inspections/{ended()}").get_json()
    assert (found["status"], found["verdict"], found["progress"]["fraction"]) == ("succeeded", "warn", 1.0)
    assert found["summary"]["layers"] == 6
    for part in ("report", "layers", "parameters", "findings", "page"):
        assert client.get(found["links"][part]).status_code == 200


def test_a_failed_inspection_is_a_200_with_its_error(app: APIFlask, client: FlaskClient) -> None:
    here, inspection_id = context_of(app), submitted(client)
    claim = take(here.database, inspection_id)
    with here.database.write() as session:
        leases.fail(session, claim.lease, code="memory_limit", detail="more than 4 GiB")
    found = client.get(f"/v1/inspections/{inspection_id}").get_json()
    assert found["error"] == {"code": "memory_limit", "detail": "more than 4 GiB", "attempt": 1}
    problem(client.get(f"/v1/inspections/{inspection_id}/report"), "no_report")


def test_a_queued_inspection_is_cancelled_at_once_and_again(client: FlaskClient) -> None:
    inspection_id = submitted(client)
    answers = [client.post(f"/v1/inspections/{inspection_id}/cancel") for _ in range(2)]
    assert [(answer.status_code, answer.get_json()["status"]) for answer in answers] == [(200, "cancelled")] * 2


def test_cancelling_a_running_inspection_is_a_202(app: APIFlask, client: FlaskClient) -> None:
    inspection_id = submitted(client)
    claim = take(context_of(app).database, inspection_id)
    answer = client.post(f"/v1/inspections/{inspection_id}/cancel")
    assert (answer.status_code, answer.get_json()["status"]) == (202, "cancelled")
    with context_of(app).database.read() as session:
        assert not leases.is_held(session, claim.lease)


def test_an_ended_inspection_cannot_be_cancelled(client: FlaskClient, ended: Ended) -> None:
    problem(client.post(f"/v1/inspections/{ended()}/cancel"), "already_ended")


def test_lists_are_filtered_and_walked_by_cursor(client: FlaskClient, ended: Ended) -> None:
    mine = [submitted(client, labels={"team": "vision", "run": str(run)}) for run in range(3)]
    done = ended(labels={"team": "audio"})
    assert ids(client.get("/v1/inspections?label=team%3Dvision")) == mine[::-1]
    assert ids(client.get("/v1/inspections?label=team:vision")) == mine[::-1]
    assert ids(client.get("/v1/inspections?label=team&label=run%3D1")) == [mine[1]]
    assert ids(client.get("/v1/inspections?status=succeeded&verdict=warn&rule=vanishing_signal")) == [done]
    assert ids(client.get("/v1/inspections?rule=dead_units")) == []
    assert ids(client.get("/v1/inspections?created_after=2020-01-01T00:00:00Z")) == [done, *mine[::-1]]
    assert ids(client.get("/v1/inspections?created_before=2020-01-01T00:00:00Z")) == []
    seen, address = [], "/v1/inspections?limit=3"
    while address:
        answer = client.get(address)
        seen += ids(answer)
        link = answer.headers.get("Link")
        assert (link is None) == (answer.get_json()["next_cursor"] is None)
        address = link.removeprefix("<").removesuffix('>; rel="next"') if link else ""
    assert seen == [done, *mine[::-1]]


def test_the_history_of_a_model_is_a_list(client: FlaskClient) -> None:
    model = client.post("/v1/models", json={"spec": SPEC}).get_json()["id"]
    mine = [client.post("/v1/inspections", json={"model": model}).get_json()["id"] for _ in range(2)]
    submitted(client)
    assert ids(client.get(f"/v1/inspections?model={model}")) == mine[::-1]


def ids(answer: TestResponse) -> list[str]:
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return [item["id"] for item in answer.get_json()["items"]]
