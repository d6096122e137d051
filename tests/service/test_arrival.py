"""When a request counts as arrived, and until when the server waits for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.processes import arrival
from service.processes.arrival import HEADER_SECONDS, MOST_HEADER_BYTES, STALL_SECONDS, Arrival

LIMIT = 1000
POST = b"POST /v1/inspections HTTP/1.1\r\nHost: localhost\r\n"
COMPLETE = [
    b"GET / HTTP/1.1\r\n\r\n",
    POST + b"Content-Length: 3\r\n\r\nabc",
    POST + b"content-length:3\r\nA: b\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    POST + b'Transfer-Encoding: chunked\r\n\r\nA;x="y"\r\n0\r\n\r\n\r\n0\r\n\r\n0\r\nTrailer: x\r\n\r\n',
]
UNWAITED = [
    b"PUT /v1/artifacts/sha256:00 HTTP/1.1\r\nContent-Length: 500\r\n\r\n",
    b"POST /v1/models HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 500\r\n\r\n",
    POST + b"Content-Length: 1001\r\n\r\n",
    b"G" * (MOST_HEADER_BYTES + 1),
]


@pytest.mark.parametrize("text", COMPLETE)
@given(cuts=st.lists(st.integers(1, 200), max_size=6))
def test_a_request_has_arrived_with_its_last_byte_however_it_is_cut(text: bytes, cuts: list[int]) -> None:
    waiting = Arrival(LIMIT)
    ends = [*sorted({min(cut, len(text) - 1) for cut in cuts}), len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        assert waiting.feed(text[start:end]) == (end == len(text))
    assert bytes(waiting.data) == text


@pytest.mark.parametrize("text", UNWAITED)
def test_uploads_and_what_will_be_refused_are_not_waited_for(text: bytes) -> None:
    assert Arrival(LIMIT).feed(text)


@pytest.mark.parametrize(
    ("chunks", "code"),
    [
        (b"zz\r\n", "bad_request"),
        (b"-2\r\n", "bad_request"),
        (b"f" * 20 + b"\r\n", "bad_request"),
        (b"f" * 300, "bad_request"),
        (b"2\r\n{}0\r\n\r\n", "bad_request"),
        (b"2\nab", "bad_request"),
        (b"0\r\n" + b"A" * MOST_HEADER_BYTES, "bad_request"),
        (b"fffff\r\n", "too_large"),
        (b"1\r\na\r\n" * 20_000, "too_large"),
    ],
)
def test_chunks_for_which_a_thread_would_wait_are_refused(chunks: bytes, code: str) -> None:
    waiting = Arrival(LIMIT)
    assert not waiting.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert waiting.feed(chunks)
    assert waiting.refused == code


@given(pieces=st.lists(st.binary(max_size=50_000) | st.sampled_from([b"1\r\na\r\n", b"0\r\n", b"5"]), max_size=9))
def test_no_chunked_body_is_held_far_beyond_the_limit(pieces: list[bytes]) -> None:
    waiting = Arrival(LIMIT)
    waiting.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    while pieces and not waiting.feed(pieces.pop()):
        assert len(waiting.data) <= LIMIT + 3 * MOST_HEADER_BYTES


def test_a_client_that_sends_a_byte_now_and_then_meets_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(arrival, "monotonic", lambda: now)
    header = Arrival(LIMIT, first_byte_seconds=5.0)
    assert header.deadline == 5.0
    for second in range(1, 9):
        now = second
        header.feed(b"G")
    assert header.deadline == 1 + HEADER_SECONDS
    now = 0.0
    body = Arrival(LIMIT)
    body.feed(POST + b"Content-Length: 900\r\n\r\n")
    assert body.deadline == STALL_SECONDS
    for second in range(10, 200, 10):
        now = second
        body.feed(b"x")
    assert body.deadline < 2 * STALL_SECONDS


def test_a_client_that_waits_for_100_continue_gets_it_for_a_small_body_only() -> None:
    small = Arrival(LIMIT)
    small.feed(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert small.expects_continue
    whole = Arrival(LIMIT)
    whole.feed(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert not whole.expects_continue
