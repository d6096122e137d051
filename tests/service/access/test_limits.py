"""Rates, quotas and the audit log, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from service.app import create_app
from service.context import EXTENSION, Context
from service.db.access import audit
from service.db.access.tables import AuditRecord
from service.db.engine import Database
from service.rates import RateExceededError, RateLimits
from service.settings import Settings
from tests.support.callers import REQUEST, problem
from tests.support.tenants import OWNER, bearer, make_belongings, make_key


@pytest.fixture
def keyed_settings(data_dir: Path, sqlite_url: str) -> Settings:
    """Make settings with small limits."""
    return Settings.from_environment(
        {}, data_dir=data_dir, database_url=sqlite_url, require_keys=True, submissions_per_minute=2,
        report_reads_per_minute=1, tenant_rate_factor=2, max_stored_bytes=10, audit_log=str(data_dir / "audit.jsonl"),
    )  # fmt: skip


def test_a_key_that_submits_too_often_is_told_when_to_come_back(keyed: FlaskClient, here: Context) -> None:
    key = bearer(make_key(here, "submit"))
    first = keyed.post("/v1/inspections", json=REQUEST, headers=key)
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
    assert first.headers["RateLimit-Policy"] == '"submissions-key";q=2;w=60'
    keyed.post("/v1/inspections", json=REQUEST, headers=key)
    refused = keyed.post("/v1/inspections", json=REQUEST, headers=key)
    problem(refused, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert refused.headers["RateLimit-Remaining"] == "0"


def test_all_keys_of_a_tenant_together_have_a_limit_and_tenants_do_not_share_it(
    keyed: FlaskClient, here: Context
) -> None:
    statuses = [
        keyed.post("/v1/inspections", json=REQUEST, headers=bearer(make_key(here, "submit"))).status_code
        for _ in range(5)
    ]
    assert statuses == [202] * 4 + [429]
    other = bearer(make_key(here, "submit", tenant="rival"))
    assert keyed.post("/v1/inspections", json=REQUEST, headers=other).status_code == 202


def test_usage_lists_quotas_and_rates(keyed: FlaskClient, here: Context) -> None:
    mine = make_belongings(here)
    key = bearer(make_key(here, "read"))
    assert keyed.get(f"/v1/inspections/{mine.inspection_id}/report", headers=key).status_code == 200
    usage = keyed.get("/v1/usage", headers=key).get_json()
    assert (usage["tenant"], usage["scopes"]) == (OWNER, ["read"])
    assert {one["name"]: (one["used"], one["limit"]) for one in usage["quotas"]} == {
        "queued": (0, 10_000), "running": (0, None), "stored_bytes": (len(OWNER), 10),
    }  # fmt: skip
    left = {(one["name"], one["applies_to"]): one["remaining"] for one in usage["rates"]}
    assert (left["report_reads", "key"], left["report_reads", "tenant"]) == (0, 1)
    problem(keyed.get(f"/v1/inspections/{mine.inspection_id}/layers", headers=key), "too_many_requests")


def test_a_tenant_that_stores_too_much_is_refused(keyed: FlaskClient, here: Context) -> None:
    make_belongings(here)
    path, key = f"/v1/artifacts/sha256:{'0' * 64}", bearer(make_key(here, "submit"))
    problem(keyed.put(path, data=b"x" * 7, headers=key), "quota_exceeded")
    assert keyed.put(path, data=b"x" * 6, headers=key).status_code == 422  # taken, and then not a model


def test_processes_count_together_in_the_broker(data_dir: Path, broker_url: str) -> None:
    settings = Settings.from_environment({}, data_dir=data_dir, broker_url=broker_url, submissions_per_minute=1)
    one, other = RateLimits(settings), RateLimits(settings)
    one.spend("submissions", tenant="a", key_id="1")
    with pytest.raises(RateExceededError):
        other.spend("submissions", tenant="a", key_id="1")


def test_a_process_counts_alone_while_the_broker_is_down(data_dir: Path) -> None:
    settings = Settings.from_environment(
        {}, data_dir=data_dir, broker_url="redis://127.0.0.1:1/0", submissions_per_minute=1
    )
    limits = RateLimits(settings)
    limits.spend("submissions", tenant="a", key_id="1")
    with pytest.raises(RateExceededError):
        limits.spend("submissions", tenant="a", key_id="1")


def test_without_a_key_nothing_is_counted(data_dir: Path, sqlite_url: str) -> None:
    settings = Settings.from_environment({}, data_dir=data_dir, database_url=sqlite_url, submissions_per_minute=1)
    application = create_app(settings)
    statuses = {application.test_client().post("/v1/inspections", json=REQUEST).status_code for _ in range(3)}
    assert statuses == {202}
    found: Context = application.extensions[EXTENSION]
    found.database.dispose()


@pytest.fixture
def acts(keyed: FlaskClient, here: Context) -> list[dict[str, object]]:
    """Make requests with a reading key and an admin's key, and return the audit log."""
    admin, reader = make_key(here, "admin"), make_key(here, "read")
    made = keyed.post("/v1/policies", json={"name": "strict"}, headers=bearer(admin)).get_json()["id"]
    keyed.delete(f"/v1/policies/{made}", headers=bearer(reader))
    keyed.delete(f"/v1/policies/{made}", headers=bearer(admin))
    keyed.get("/v1/policies", headers=bearer(reader))
    keyed.post("/login", data={"key": reader})
    items: list[dict[str, object]] = keyed.get("/v1/audit-log", headers=bearer(admin)).get_json()["items"]
    return items


def test_the_audit_log_says_who_did_what_with_which_result(acts: list[dict[str, object]]) -> None:
    told = [(act["action"], act["status"], act["code"]) for act in reversed(acts)]
    assert told == [
        ("create_policy", 201, None), ("delete_policy", 403, "missing_scope"), ("delete_policy", 204, None),
        ("log_in", 303, None),
    ]  # fmt: skip
    assert acts[1]["object"] == acts[3]["object"]
    assert str(acts[3]["object"]).startswith("pol_")
    assert acts[0]["address"] == "127.0.0.1"
    assert acts[1]["key"] != acts[2]["key"]


def test_the_audit_log_is_filtered_and_holds_no_secret(
    acts: list[dict[str, object]], keyed: FlaskClient, here: Context, data_dir: Path
) -> None:
    key = make_key(here, "admin")
    found = keyed.get("/v1/audit-log?code=missing_scope&action=delete_policy&limit=1", headers=bearer(key)).get_json()
    assert [act["id"] for act in found["items"]] == [acts[2]["id"]]
    keyed.post("/v1/keys", json={"name": "new"}, headers=bearer(key))
    lines = (data_dir / "audit.jsonl").read_text()
    assert (data_dir / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["action"] for line in lines.splitlines()][-1] == "create_key"
    for text in (lines, keyed.get("/v1/audit-log", headers=bearer(key)).get_data(as_text=True)):
        assert "gi_" not in text
        assert key.rpartition("_")[2] not in text


@pytest.mark.parametrize("statement", [update(AuditRecord).values(action="none"), delete(AuditRecord)])
def test_an_act_is_never_changed_or_removed(database: Database, statement: object) -> None:
    act = audit.Act(
        tenant=OWNER, key_id=None, action="create_key", object=None, address="-", status=200, code=None, request_id="-"
    )
    with database.write() as session:
        audit.insert(session, act)
    with pytest.raises(DBAPIError, match="never changed"), database.write() as session:
        session.execute(statement)  # type: ignore[call-overload]  # an update or a delete
