"""Endpoints for operators: liveness, readiness and metrics."""

from __future__ import annotations

import re
from pathlib import Path

from apiflask import APIFlask
from flask.testing import FlaskClient

from gradinspect.contracts.wire.messages import Limits
from service.api.health import Readiness
from service.app import create_app
from service.context import EXTENSION, Context
from service.db import leases, outbox, retention
from service.db.workers import OneWorker
from service.settings import Settings
from tests.support.callers import REQUEST, problem
from tests.support.specimens import Ended, take, write_worker

NAMES = (
    "gradinspect_inspections_total", "gradinspect_inspection_duration_seconds_bucket", "gradinspect_inspections",
    "gradinspect_queue_wait_seconds_bucket", "gradinspect_lease_expired_total", "gradinspect_redispatch_total",
    "gradinspect_fenced_writes_total", "gradinspect_http_request_duration_seconds_bucket", "gradinspect_artifact_bytes",
    "gradinspect_broker_up",
)  # fmt: skip


def context_of(app: APIFlask) -> Context:
    here: Context = app.extensions[EXTENSION]
    return here


def away(settings: Settings, tmp_path: Path) -> FlaskClient:
    """Make a test client of a service whose database cannot be opened."""
    return create_app(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/no/such.db"})).test_client()


def samples(client: FlaskClient) -> dict[str, float]:
    """Return every sample of a scrape, by name and labels."""
    text = client.get("/metrics").get_data(as_text=True)
    found = re.findall(r"^(gradinspect_\S+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_liveness_depends_on_no_other_process(settings_of_sqlite: Settings, tmp_path: Path) -> None:
    answer = away(settings_of_sqlite, tmp_path).get("/healthz")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "alive")


def test_readiness_lists_limits_and_their_use(client: FlaskClient) -> None:
    client.post("/v1/inspections", json=REQUEST)
    answer = client.get("/readyz")
    found = Readiness.model_validate_json(answer.get_data())
    assert (found.status, found.database, found.broker, found.queues) == ("ready", "up", "up", {"cpu": 1})
    assert found.inspections["queued"] == 1
    assert found.limits.body_bytes == Settings().max_spec_body_bytes
    assert found.job_limits == Limits()
    assert (found.uploads, found.confinement, found.workers) == ("unknown", None, ())


def test_readiness_without_a_broker_is_degraded_with_status_200(settings_of_sqlite: Settings) -> None:
    answer = create_app(settings_of_sqlite).test_client().get("/readyz")
    found = Readiness.model_validate_json(answer.get_data())
    assert (answer.status_code, found.status, found.broker) == (200, "degraded", "down")
    assert found.queues == {"cpu": None}


def test_readiness_without_a_database_is_a_503_with_retry_after(settings_of_sqlite: Settings, tmp_path: Path) -> None:
    for address in ("/readyz", "/v1/models", "/v1/layers"):
        answer = away(settings_of_sqlite, tmp_path).get(address)
        problem(answer, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0


def test_readiness_describes_the_workers(settings_of_sqlite: Settings) -> None:
    worker = OneWorker(
        name="w1", queues=("cpu",), slots=2, torch_version="2.13.0", confinement="limits", reason="no Landlock here",
        limits=Limits(),
    )  # fmt: skip
    write_worker(settings_of_sqlite, worker)
    client = create_app(settings_of_sqlite).test_client()
    found = Readiness.model_validate_json(client.get("/readyz").get_data())
    assert (found.uploads, found.confinement, found.reason) == ("disabled", "limits", "no Landlock here")
    assert (found.torch_versions, found.workers) == (("2.13.0",), (worker,))


def test_metrics_have_the_documented_names(client: FlaskClient, ended: Ended) -> None:
    ended()
    client.get("/healthz")
    found = {name.partition("{")[0] for name in samples(client)}
    assert set(NAMES) <= found


def test_inspections_are_counted_by_their_outcome(client: FlaskClient, ended: Ended) -> None:
    ended()
    waiting = client.post("/v1/inspections", json=REQUEST).get_json()["id"]
    before = samples(client)
    assert before['gradinspect_inspections_total{status="succeeded"}'] == 1
    assert before['gradinspect_inspections{status="queued"}'] == 1
    assert before['gradinspect_inspection_duration_seconds_bucket{le="+Inf"}'] == 1
    assert before['gradinspect_inspection_duration_seconds_bucket{le="300.0"}'] == 1
    assert before["gradinspect_queue_wait_seconds_count"] == 1
    assert 0 <= before["gradinspect_inspection_duration_seconds_sum"] < 60
    assert before["gradinspect_broker_up"] == before["gradinspect_database_up"] == 1
    client.post(f"/v1/inspections/{waiting}/cancel")
    assert samples(client)['gradinspect_inspections_total{status="cancelled"}'] == 1


def test_counters_do_not_fall_when_rows_are_removed(app: APIFlask, client: FlaskClient, ended: Ended) -> None:
    ended()
    before = {name: value for name, value in samples(client).items() if "http" not in name}
    with context_of(app).database.write() as session:
        retention.mark(session, kept_days=0)
    with context_of(app).database.write() as session:
        ids = [item.inspection_id for item in retention.marked(session, grace_seconds=0)]
        assert retention.remove(session, ids) == 1
    after = {name: value for name, value in samples(client).items() if "http" not in name}
    gone = 'gradinspect_inspections{status="succeeded"}'
    assert (before.pop(gone), after.pop(gone)) == (1, 0)
    assert after == before


def test_expired_leases_and_second_publications_are_counted(app: APIFlask, client: FlaskClient) -> None:
    inspection_id = client.post("/v1/inspections", json=REQUEST).get_json()["id"]
    database = context_of(app).database
    with database.write() as session:
        outbox.mark_dispatched(session, inspection_id, redispatch_seconds=1)
    take(database, inspection_id, lease_seconds=-1)
    with database.write() as session:
        leases.expire(session, max_attempts=3, retry_seconds=0)
    found = samples(client)
    assert found["gradinspect_lease_expired_total"] == 1
    assert found["gradinspect_redispatch_total"] == 1


def test_metrics_are_available_without_a_database(settings_of_sqlite: Settings, tmp_path: Path) -> None:
    found = samples(away(settings_of_sqlite, tmp_path))
    assert found["gradinspect_database_up"] == 0
    assert found["gradinspect_broker_up"] == 0
