"""Progress as server-sent events: immediate, resumable, finite, and limited in number."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from service.api import events
from service.app import create_app
from service.context import EXTENSION, Context
from service.db import leases
from service.settings import Settings
from tests.support.callers import REQUEST, problem
from tests.support.specimens import take


def context_of(app: APIFlask) -> Context:
    here: Context = app.extensions[EXTENSION]
    return here


def heard(pieces: Iterator[bytes]) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Parse the events of a stream into id, name and data."""
    for piece in pieces:
        lines = dict(line.split(": ", 1) for line in piece.decode().splitlines() if line and not line.startswith(":"))
        if "event" in lines:
            yield lines["id"], lines["event"], json.loads(lines["data"])


def submitted(client: FlaskClient) -> str:
    return str(client.post("/v1/inspections", json=REQUEST).get_json()["id"])


def test_a_stream_has_an_event_for_every_change_and_ends_with_the_inspection(
    app: APIFlask, client: FlaskClient
) -> None:
    inspection_id, database = submitted(client), context_of(app).database
    answer = client.get(f"/v1/inspections/{inspection_id}/events")
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    stream = heard(answer.iter_encoded())
    assert next(stream)[1:] == ("progress", client.get(f"/v1/inspections/{inspection_id}").get_json())
    claim = take(database, inspection_id)
    assert next(stream)[2]["status"] == "running"
    with database.write() as session:
        leases.progress(session, claim.lease, stage="backward", fraction=0.5)
    assert next(stream)[2]["progress"] == {"stage": "backward", "fraction": 0.5}
    with database.write() as session:
        leases.fail(session, claim.lease, code="time_limit", detail="300 s")
    last = next(stream)
    assert (last[1], last[2]["status"]) == ("ended", "failed")
    assert list(stream) == []
    answer.close()


def test_a_resumed_stream_does_not_repeat_events(client: FlaskClient) -> None:
    place = f"/v1/inspections/{submitted(client)}"
    answer = client.get(f"{place}/events")
    known = next(heard(answer.iter_encoded()))[0]
    answer.close()
    client.post(f"{place}/cancel")
    again = client.get(f"{place}/events", headers={"Last-Event-ID": known})
    (last,) = heard(again.iter_encoded())
    assert (last[1], last[2]["status"]) == ("ended", "cancelled")
    nothing = client.get(f"{place}/events", headers={"Last-Event-ID": last[0]})
    assert (nothing.status_code, nothing.get_data()) == (204, b"")


def test_a_quiet_stream_sends_heartbeats(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.0)
    answer = client.get(f"/v1/inspections/{submitted(client)}/events")
    pieces = answer.iter_encoded()
    assert any(piece.startswith(b":") for piece in (next(pieces) for _ in range(4)))
    answer.close()


def test_the_duration_of_a_stream_is_limited(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LONGEST_STREAM_SECONDS", 0.0)
    answer = client.get(f"/v1/inspections/{submitted(client)}/events")
    assert [name for _, name, _ in heard(answer.iter_encoded())] == ["progress"]
    answer.close()


def test_the_number_of_streams_is_limited_and_a_closed_one_frees_its_slot(settings_of_sqlite: Settings) -> None:
    client = create_app(settings_of_sqlite.model_copy(update={"max_long_polls": 2})).test_client()
    place = f"/v1/inspections/{submitted(client)}/events"
    first = client.get(place)
    refused = client.get(place)
    problem(refused, "too_many_requests")
    assert int(refused.headers["Retry-After"]) > 0
    first.close()
    client.get(place).close()
    assert client.head(place).status_code == 200
    client.get(place).close()


def test_a_caller_that_does_not_accept_event_streams_is_refused(client: FlaskClient) -> None:
    place = f"/v1/inspections/{submitted(client)}/events"
    problem(client.get(place, headers={"Accept": "application/json"}), "not_acceptable")


def test_many_streams_receive_the_same_last_event(app: APIFlask) -> None:
    client = app.test_client()
    inspection_id = submitted(client)
    ends: list[str] = []

    def follow() -> None:
        answer = app.test_client().get(f"/v1/inspections/{inspection_id}/events")
        ends.extend(name for _, name, _ in heard(answer.iter_encoded()) if name == "ended")
        answer.close()

    listeners = [threading.Thread(target=follow) for _ in range(8)]
    for listener in listeners:
        listener.start()
    client.post(f"/v1/inspections/{inspection_id}/cancel")
    for listener in listeners:
        listener.join(30)
    assert ends == ["ended"] * 8
