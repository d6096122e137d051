"""gzip for every text response over 1 KB when the caller accepts it, with correct ETag and Vary."""

from __future__ import annotations

import gzip

import pytest
from apiflask import APIFlask
from flask import Response
from flask.testing import FlaskClient

from service.app import create_app
from service.settings import Settings

GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture
def offline(settings_of_sqlite: Settings) -> APIFlask:
    return create_app(settings_of_sqlite)


@pytest.fixture
def caller(offline: APIFlask) -> FlaskClient:
    return offline.test_client()


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/"])
def test_a_long_text_is_compressed_for_callers_that_accept_it(caller: FlaskClient, path: str) -> None:
    plain, packed = caller.get(path), caller.get(path, headers=GZIP)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.get_data()) < len(plain.get_data()) / 1.5
    assert gzip.decompress(packed.get_data())[:200] == plain.get_data()[:200]
    for answer in (plain, packed):
        assert "accept-encoding" in [name.lower() for name in answer.vary]


def test_a_short_text_is_not_compressed(caller: FlaskClient) -> None:
    answer = caller.get("/healthz", headers=GZIP)
    assert "Content-Encoding" not in answer.headers
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", "deflate"])
def test_a_caller_that_does_not_accept_gzip_gets_plain_text(caller: FlaskClient, accepted: str) -> None:
    answer = caller.get("/openapi.json", headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers


def test_the_etag_of_a_compressed_answer_is_weak_and_still_means_the_same_content(caller: FlaskClient) -> None:
    plain, packed = caller.get("/openapi.json"), caller.get("/openapi.json", headers=GZIP)
    assert packed.headers["ETag"] == f"W/{plain.headers['ETag']}"
    for etag in (plain.headers["ETag"], packed.headers["ETag"]):
        again = caller.get("/openapi.json", headers={**GZIP, "If-None-Match": etag})
        assert again.status_code == 304
        assert again.get_data() == b""
        assert "Accept-Encoding" in again.headers["Vary"]


def test_a_head_has_the_headers_of_its_get(caller: FlaskClient) -> None:
    got, head = caller.get("/openapi.json", headers=GZIP), caller.head("/openapi.json", headers=GZIP)
    assert head.get_data() == b""
    for name in ("Content-Encoding", "Content-Length", "ETag", "Vary"):
        assert head.headers[name] == got.headers[name]


def test_a_problem_is_compressed_too_and_stays_a_problem(caller: FlaskClient) -> None:
    answer = caller.get("/v1/layers?nobody=1", headers=GZIP)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b'"code": "invalid_request"' in gzip.decompress(answer.get_data())


def test_a_stream_of_events_is_not_compressed(offline: APIFlask) -> None:
    @offline.get("/stream")
    def stream() -> Response:
        return Response((f"data: {'x' * 2000}\n\n" for _ in range(2)), mimetype="text/event-stream")

    answer = offline.test_client().get("/stream", headers=GZIP)
    assert "Content-Encoding" not in answer.headers
    assert answer.get_data().startswith(b"data: xxx")


def test_options_is_an_empty_answer_with_the_methods(caller: FlaskClient) -> None:
    answer = caller.options("/v1/models")
    assert (answer.status_code, answer.get_data()) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert set(answer.allow) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
