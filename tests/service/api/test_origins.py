"""Web pages of other origins, and other names for this service, are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.context import EXTENSION
from service.settings import Settings
from tests.support.callers import REQUEST, problem

EVIL = "https://evil.example"


@pytest.fixture
def client(settings_of_sqlite: Settings) -> Iterator[FlaskClient]:
    settings = settings_of_sqlite.model_copy(
        update={"allowed_hosts": ("api",), "public_url": "https://grads.example:8443"}
    )
    app = create_app(settings)
    yield app.test_client()
    app.extensions[EXTENSION].database.dispose()


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.1:9", "127.3.2.1", "[::1]:8080", "LOCALHOST", "localhost.",
     "api:8080", "grads.example:8443"],
)  # fmt: skip
def test_the_service_answers_to_loopback_and_to_its_own_names(client: FlaskClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "169.254.169.254", "[2001:db8::1]", "127.1"]
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/inspections", "/", "/nothing"])
def test_another_name_for_the_service_is_refused_whatever_the_path(client: FlaskClient, host: str, path: str) -> None:
    refused = client.get(path, headers={"Host": host})
    assert refused.status_code == 421
    if path != "/":  # a page
        problem(refused, "host_not_allowed")


@pytest.mark.parametrize("host", ["", "a b", "a@b", "a/b", "[::1", "localhost:http"])
def test_a_host_header_that_names_none_is_a_bad_request(client: FlaskClient, host: str) -> None:
    problem(client.get("/healthz", headers={"Host": host}), "bad_request")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://localhost:9000"},
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/inspections"),
        ("POST", "/v1/models"),
        ("POST", "/v1/artifacts"),
        ("PUT", "/v1/artifacts/sha256:00"),
        ("DELETE", "/v1/models/mdl_1"),
        ("POST", "/v1/inspections/insp_1/cancel"),
        ("POST", "/nothing"),
    ],
)
def test_a_page_of_another_origin_changes_nothing(
    client: FlaskClient, method: str, path: str, headers: dict[str, str]
) -> None:
    problem(client.open(path, method=method, json=REQUEST, headers=headers), "cross_origin")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Origin": "https://grads.example:8443", "Host": "grads.example:8443"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_programs_and_the_services_own_pages_are_served(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/v1/models:validate", json=REQUEST["model"], headers=headers).status_code == 200


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain"])
def test_the_body_of_a_form_cancels_nothing(client: FlaskClient, media_type: str) -> None:
    answer = client.post("/v1/inspections/insp_1/cancel", data="a=b", content_type=media_type)
    problem(answer, "unsupported_media_type")


def test_another_page_may_still_link_to_a_report(client: FlaskClient) -> None:
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Origin": EVIL}).status_code == 200


def test_any_name_is_allowed_where_the_operator_says_so(data_dir: Path, sqlite_url: str) -> None:
    settings = Settings.from_environment({"GRADINSPECT_ALLOWED_HOSTS": "*"}, data_dir=data_dir, database_url=sqlite_url)
    app = create_app(settings)
    assert app.test_client().get("/healthz", headers={"Host": "anything.example"}).status_code == 200
    app.extensions[EXTENSION].database.dispose()
