"""The login of the pages."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from service.access.sessions import COOKIE
from service.context import Context
from service.db.access import keys
from tests.support.callers import problem
from tests.support.tenants import OWNER, make_belongings, make_key

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def log_in(client: FlaskClient, key: str, target: str = "/") -> str:
    """Log in; return the address that follows."""
    answer = client.post("/login", data={"key": key, "next": target})
    assert answer.status_code == 303, answer.get_data(as_text=True)
    return str(answer.headers["Location"])


def test_a_browser_is_led_to_the_login_and_back_to_the_page(keyed: FlaskClient, here: Context) -> None:
    mine = make_belongings(here)
    page = f"/inspections/{mine.inspection_id}?sort=depth"
    sent = keyed.get(page, headers=BROWSER)
    assert sent.status_code == 303
    form = keyed.get(sent.headers["Location"], headers=BROWSER)
    assert f'value="{page}"' in form.get_data(as_text=True)
    assert log_in(keyed, make_key(here, "read"), page) == page
    assert keyed.get(page, headers=BROWSER).status_code == 200


def test_the_cookie_is_closed_to_scripts_and_to_other_sites(keyed: FlaskClient, here: Context) -> None:
    key = make_key(here, "read")
    header = keyed.post("/login", data={"key": key}).headers["Set-Cookie"]
    assert "HttpOnly" in header
    assert "SameSite=Lax" in header
    assert key.rpartition("_")[2] not in header
    secure = keyed.post("/login", data={"key": key}, base_url="https://localhost").headers["Set-Cookie"]
    assert "Secure" in secure


def test_a_wrong_key_shows_the_form_again(keyed: FlaskClient, here: Context) -> None:
    answer = keyed.post("/login", data={"key": make_key(here, "read")[:-1] + "x", "next": "/compare"})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert 'value="/compare"' in answer.get_data(as_text=True)


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nSet-Cookie:x"])
def test_the_login_leads_to_no_other_host(keyed: FlaskClient, here: Context, target: str) -> None:
    assert log_in(keyed, make_key(here, "read"), target) == "/"


def test_a_changed_cookie_is_no_session(keyed: FlaskClient, here: Context) -> None:
    log_in(keyed, make_key(here, "read"))
    cookie = keyed.get_cookie(COOKIE)
    assert cookie is not None
    key_id, end, signature = cookie.value.split(".")
    with here.database.write() as session:
        other = keys.insert(session, tenant="rival", name="other", scopes=["admin"]).record.id
    for value in (
        f"{other}.{end}.{signature}",
        f"{key_id}.{int(end) + 1}.{signature}",
        f"{key_id}.{end}.",
        "a.b.c",
        "…",
    ):
        keyed.set_cookie(COOKIE, value)
        assert keyed.get("/", headers=BROWSER).status_code == 303


def test_a_session_ends_after_its_hours(keyed: FlaskClient, here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(keyed, make_key(here, "read"))
    monkeypatch.setattr("service.access.sessions.time", lambda: 4e9)
    assert keyed.get("/", headers=BROWSER).status_code == 303


def test_a_session_ends_with_its_key(keyed: FlaskClient, here: Context) -> None:
    key = make_key(here, "read")
    log_in(keyed, key)
    assert keyed.get("/", headers=BROWSER).status_code == 200
    with here.database.write() as session:
        keys.revoke(session, key.split("_")[1], tenant=OWNER)
    assert keyed.get("/", headers=BROWSER).status_code == 303


def test_logging_out_ends_the_session(keyed: FlaskClient, here: Context) -> None:
    log_in(keyed, make_key(here, "read"))
    assert "Log out" in keyed.get("/", headers=BROWSER).get_data(as_text=True)
    assert keyed.post("/logout").status_code == 303
    assert keyed.get("/", headers=BROWSER).status_code == 303


def test_a_session_reads_the_api_and_changes_nothing_there(keyed: FlaskClient, here: Context) -> None:
    # A browser sends the cookie also with requests that another site's page has made.
    mine = make_belongings(here)
    log_in(keyed, make_key(here, "admin"))
    assert keyed.get(f"/v1/inspections/{mine.inspection_id}/report?format=csv").status_code == 200
    problem(keyed.delete(f"/v1/inspections/{mine.inspection_id}"), "unauthenticated")
    problem(keyed.post("/v1/keys", json={"name": "a"}), "unauthenticated")


def test_the_form_of_another_sites_page_opens_no_session(keyed: FlaskClient, here: Context) -> None:
    key = make_key(here, "read")
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = keyed.post("/login", data={"key": key}, headers=headers)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers
    assert keyed.post("/login", data={"key": key}, headers={"Origin": "http://localhost"}).status_code == 303
    assert keyed.get("/login").headers["Referrer-Policy"] == "same-origin"  # else browsers send Origin: null


def test_an_oversized_form_is_refused(keyed: FlaskClient) -> None:
    assert keyed.post("/login", data={"key": "x" * 10_000}).status_code == 413
