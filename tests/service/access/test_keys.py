"""Keys: made, checked, used, expired and revoked, over HTTP and in the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update

from service.context import Context
from service.db import clock
from service.db.access import keys
from service.db.access.tables import KeyRecord
from service.db.engine import Database
from tests.support.callers import pointers, problem
from tests.support.tenants import OWNER, bearer, make_key


def test_a_key_opens_what_its_digest_in_the_database_cannot(database: Database) -> None:
    with database.write() as session:
        made = keys.insert(session, tenant=OWNER, name="ci", scopes=["submit"])
    with database.read() as session:
        found = keys.check(session, made.text)
        assert found is not None
        assert (found.record.id, found.record.tenant_id, found.record.scopes) == (made.record.id, OWNER, ["submit"])
        secret = made.text.rpartition("_")[2]
        assert len(bytes.fromhex(secret)) >= 20  # 160 bits
        assert secret not in str(session.execute(select(KeyRecord.__table__)).all())
        assert keys.check(session, f"gi_{made.record.id}_{found.record.secret_digest}") is None


def test_a_text_that_is_not_exactly_a_key_is_refused(database: Database) -> None:
    with database.write() as session:
        made, other = (keys.insert(session, tenant=OWNER, name="ci", scopes=["read"]) for _ in range(2))
    secret = made.text.rpartition("_")[2]
    wrong = [
        "", "gi_", made.text[:-1], made.text + "0", made.text.upper(), f" {made.text}", made.text + "\x00",
        f"gi_{other.record.id}_{secret}", f"gi_{'0' * 32}_{secret}", made.text.replace("gi_", "gx_"),
        f"gi_{made.record.id}_{'0' * 64}", "gi_" + "é" * 97,
    ]  # fmt: skip
    with database.read() as session:
        assert [text for text in wrong if keys.check(session, text) is not None] == []


def test_the_last_use_is_written_at_most_once_a_minute(database: Database) -> None:
    with database.write() as session:
        made = keys.insert(session, tenant=OWNER, name="ci", scopes=["read"])
    with database.write() as session:
        found = keys.check(session, made.text)
        assert found is not None
        assert found.is_use_due
        assert keys.write_use(session, found.record)
    with database.write() as session:
        again = keys.check(session, made.text)
        assert again is not None
        assert not again.is_use_due
        assert not keys.write_use(session, again.record)
        session.execute(update(KeyRecord).values(last_used_at=clock.now_plus(-61)))
        later = keys.check(session, made.text)
        assert later is not None
        assert later.is_use_due


def test_a_key_ends_when_it_expires_and_when_it_is_revoked(database: Database) -> None:
    with database.write() as session:
        made, revoked = (keys.insert(session, tenant=OWNER, name="ci", scopes=["read"]) for _ in range(2))
        session.execute(update(KeyRecord).where(KeyRecord.id == made.record.id).values(expires_at=clock.now_plus(-1)))
        keys.revoke(session, revoked.record.id, tenant=OWNER)
        assert keys.check(session, made.text) is None
        assert keys.check(session, revoked.text) is None
        assert not keys.any_usable(session)


def test_an_admin_makes_lists_and_revokes_keys(keyed: FlaskClient, here: Context) -> None:
    admin = bearer(make_key(here, "admin"))
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = keyed.post("/v1/keys", json={"name": "ci", "scopes": ["submit"], "expires_at": until}, headers=admin)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    document = made.get_json()
    assert (document["tenant"], document["scopes"], document["last_used_at"]) == (OWNER, ["submit"], None)
    key = document["key"]
    assert keyed.get("/v1/models", headers=bearer(key)).status_code == 200
    listed = keyed.get("/v1/keys", headers=admin)
    assert key.rpartition("_")[2] not in listed.get_data(as_text=True)
    assert [one["name"] for one in listed.get_json()["items"]] == ["ci", "test"]
    assert listed.get_json()["items"][0]["last_used_at"] is not None
    path = f"/v1/keys/{document['id']}"
    assert made.headers["Location"] == path
    assert keyed.delete(path, headers=admin).status_code == 204
    problem(keyed.get("/v1/models", headers=bearer(key)), "unauthenticated")
    problem(keyed.delete(path, headers=admin), "not_found")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": "a", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "a", "scopes": []}, "/scopes"),
        ({"name": "a", "tenant": "../etc"}, "/tenant"),
        ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "a", "expires_at": "2120-01-01T00:00:00"}, "/expires_at"),
    ],
)
def test_a_wrong_field_of_a_key_is_named(keyed: FlaskClient, here: Context, body: object, pointer: str) -> None:
    answer = keyed.post("/v1/keys", json=body, headers=bearer(make_key(here, "admin")))
    assert pointers(problem(answer, "invalid_request")) == [pointer]


def test_the_keys_of_a_tenant_come_in_pages(keyed: FlaskClient, here: Context) -> None:
    admin = bearer(make_key(here, "admin"))
    for number in range(4):
        make_key(here, "read", name=f"key {number}")
    names: list[str] = []
    path: str | None = "/v1/keys?limit=2"
    while path is not None:
        answer = keyed.get(path, headers=admin)
        names += [one["name"] for one in answer.get_json()["items"]]
        path = answer.headers["Link"].partition(">")[0].removeprefix("<") if "Link" in answer.headers else None
    assert names == ["key 3", "key 2", "key 1", "key 0", "test"]


def test_only_the_operator_names_another_tenant(keyed: FlaskClient, here: Context) -> None:
    operator = bearer(make_key(here, "admin", tenant="default"))
    admin = bearer(make_key(here, "admin"))
    made = keyed.post("/v1/keys", json={"name": "first", "scopes": ["admin"], "tenant": "new"}, headers=operator)
    assert made.get_json()["tenant"] == "new"
    assert len(keyed.get("/v1/keys?tenant=new", headers=operator).get_json()["items"]) == 1
    path = f"/v1/keys/{made.get_json()['id']}"
    problem(keyed.post("/v1/keys", json={"name": "a", "tenant": "new"}, headers=admin), "missing_scope")
    problem(keyed.get("/v1/keys?tenant=new", headers=admin), "missing_scope")
    problem(keyed.delete(f"{path}?tenant=new", headers=admin), "missing_scope")
    problem(keyed.delete(path, headers=operator), "not_found")  # without the tenant it is not meant
    assert keyed.delete(f"{path}?tenant=new", headers=operator).status_code == 204


def test_a_wrong_key_is_refused_even_where_none_is_needed(client: FlaskClient) -> None:
    assert client.get("/v1/models").status_code == 200
    for text in ("Bearer gi_nothing", "Basic dXNlcjpwYXNz", "Bearer", ""):
        problem(client.get("/v1/models", headers={"Authorization": text}), "unauthenticated")


def test_a_cursor_of_one_tenant_is_refused_for_another(keyed: FlaskClient, here: Context) -> None:
    make_key(here, "read")
    mine, theirs = bearer(make_key(here, "admin")), bearer(make_key(here, "admin", tenant="rival"))
    cursor = keyed.get("/v1/keys?limit=1", headers=mine).get_json()["next_cursor"]
    problem(keyed.get(f"/v1/keys?limit=1&cursor={cursor}", headers=theirs), "invalid_request")


def test_answers_to_a_key_are_not_kept_by_shared_caches(keyed: FlaskClient, here: Context) -> None:
    answer = keyed.get("/v1/models", headers=bearer(make_key(here, "read")))
    assert "private" in answer.headers["Cache-Control"]
    assert {"Authorization", "Cookie"} <= set(answer.vary.as_set(preserve_casing=True))


def test_the_readiness_of_a_keyed_service_tells_only_the_operator_about_all_tenants(
    keyed: FlaskClient, here: Context
) -> None:
    anonymous = keyed.get("/readyz").get_json()
    assert (anonymous["inspections"], anonymous["workers"]) == ({}, [])
    operator = bearer(make_key(here, "admin", tenant="default"))
    assert "queued" in keyed.get("/readyz", headers=operator).get_json()["inspections"]
