"""Multipart bodies are read as they arrive, and errors name the mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # Any: arguments of werkzeug

import pytest
from flask import Flask
from flask.ctx import RequestContext

from gradinspect.contracts.problems import ProblemError
from service.api.http.forms import MAX_FIELD_BYTES, MAX_PARTS, receive_form
from service.context import EXTENSION, make_context
from service.settings import Settings

LIMIT = 10 * 2**20
MULTIPART = "multipart/form-data; boundary=XX"
OpenRequest = Callable[..., RequestContext]  # a body, its content type, and what test_request_context takes
FILE = b'Content-Disposition: form-data; name="file"; filename="m.pt"\r\n\r\n'


def part(name: str, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name.encode(), value)


def form(*parts: bytes, boundary: bytes = b"XX") -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary, each) for each in parts) + b"--%s--\r\n" % boundary


@pytest.fixture
def post(tmp_path: Path) -> OpenRequest:
    app = Flask("test")
    app.extensions[EXTENSION] = make_context(Settings(data_dir=tmp_path))

    def open_request(
        body: bytes, content_type: str = "multipart/form-data; boundary=XX", **more: Any
    ) -> RequestContext:
        return app.test_request_context("/", method="POST", data=body, content_type=content_type, **more)

    return open_request


def collect(pieces: Iterator[bytes]) -> bytes:
    return b"".join(pieces)


def problem(post: OpenRequest, body: bytes, limit: int = LIMIT, **more: Any) -> ProblemError:
    with post(body, **more), pytest.raises(ProblemError) as caught:
        receive_form(limit, collect, fields=("name",))
    return caught.value


def test_a_file_of_a_form_is_received_unchanged(post: OpenRequest) -> None:
    content = bytes(range(256)) * 5000 + b"\r\n--X" + b"\r\n"
    with post(form(FILE + content)):
        assert receive_form(LIMIT, collect).file == content


def test_a_file_is_handed_over_in_pieces_of_bounded_size(post: OpenRequest) -> None:
    sizes: list[int] = []

    def measure(pieces: Iterator[bytes]) -> int:
        sizes.extend(len(piece) for piece in pieces)
        return sum(sizes)

    with post(form(FILE + b"x" * (4 * 2**20))):
        assert receive_form(LIMIT, measure).file == 4 * 2**20
    assert max(sizes) <= 2**19


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fields_may_come_before_or_after_the_file(post: OpenRequest, order: tuple[int, int]) -> None:
    parts = (FILE + b"bytes", part("name", "näme".encode()))
    with post(form(*(parts[index] for index in order))):
        read = receive_form(LIMIT, collect, fields=("name",))
    assert (read.file, read.fields) == (b"bytes", {"name": "näme"})


def test_an_empty_file_is_accepted(post: OpenRequest) -> None:
    with post(form(FILE)):
        assert receive_form(LIMIT, collect).file == b""


def test_the_error_for_a_form_without_a_file_says_what_to_add(post: OpenRequest) -> None:
    found = problem(post, form(part("name", b"x")))
    assert (found.code, found.errors[0].pointer) == ("invalid_request", "/file")
    assert "-F file=@" in found.detail


def test_an_unknown_part_is_named(post: OpenRequest) -> None:
    found = problem(post, form(part("colour", b"x"), FILE + b"x"))
    assert found.errors[0].pointer == "/colour"
    assert "known are file, name" in found.detail


def test_a_second_file_is_refused(post: OpenRequest) -> None:
    assert "given twice" in problem(post, form(FILE + b"x", FILE + b"y")).detail


def test_a_large_field_is_refused_without_being_held_in_memory(post: OpenRequest) -> None:
    assert problem(post, form(part("name", b"x" * (MAX_FIELD_BYTES + 1)), FILE)).errors[0].pointer == "/name"


def test_a_field_that_is_not_utf8_is_named(post: OpenRequest) -> None:
    assert "UTF-8" in problem(post, form(part("name", b"\xff"), FILE)).detail


def test_a_cut_form_is_a_short_body(post: OpenRequest) -> None:
    body = form(FILE + b"x" * 1000)
    assert problem(post, body[:500], environ_overrides={"CONTENT_LENGTH": str(len(body))}).code == "short_body"


def test_a_form_that_never_ends_its_file_is_refused(post: OpenRequest) -> None:
    assert problem(post, b"--XX\r\n" + FILE + b"x" * 1000).code == "bad_request"


@pytest.mark.parametrize(
    "body",
    [b"hello", b"--XX\r\nno disposition\r\n\r\nx\r\n--XX--\r\n", b"--XX\r\n" + b"h: " + b"x" * 400_000],
    ids=["prose", "no disposition", "endless header"],
)
def test_a_body_that_is_not_multipart_is_refused(post: OpenRequest, body: bytes) -> None:
    assert problem(post, body).code == "bad_request"


def test_a_nameless_part_is_refused(post: OpenRequest) -> None:
    assert problem(post, form(b"Content-Disposition: form-data\r\n\r\nx")).code == "invalid_request"


def test_a_missing_boundary_is_named(post: OpenRequest) -> None:
    assert "boundary" in problem(post, form(FILE), content_type="multipart/form-data").detail


def test_too_many_parts_are_refused(post: OpenRequest) -> None:
    body = form(*[FILE] + [part("", b"")] * (MAX_PARTS + 2))
    assert problem(post, body).code in ("bad_request", "invalid_request")


def test_a_body_above_the_limit_is_refused(post: OpenRequest) -> None:
    assert problem(post, form(FILE + b"x" * 5000), limit=4096).code == "too_large"
