"""Which requests are retried, how often, and after which pauses."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.client import Client, ServiceFault, ServiceUnreachable, TooManyRequests
from gradinspect.client.transport import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    RetryingTransport,
)

Step = Exception | httpx.Response


class Script(httpx.BaseTransport):
    """Give answers in order, and record the requests."""

    def __init__(self, *steps: Step) -> None:
        self.steps, self.seen = list(steps), list[tuple[str, bytes]]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.read()))
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def sending(
    method: str, *steps: Step, headers: dict[str, str] | None = None, attempts: int = 5, jitter: float = 0.5
) -> tuple[Callable[[], httpx.Response], Script, list[float]]:
    script, slept = Script(*steps), list[float]()
    transport = RetryingTransport(script, attempts=attempts, sleep=slept.append, jitter=lambda: jitter)
    client = httpx.Client(transport=transport)
    return lambda: client.request(method, "http://service.test/", headers=headers), script, slept


def status(code: int, **headers: str) -> httpx.Response:
    return httpx.Response(code, headers={name.replace("_", "-"): value for name, value in headers.items()})


BROKEN = [httpx.ReadError("cut"), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("odd")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("step", [*BROKEN, status(502), status(503), status(504), status(429)])
def test_idempotent_requests_are_retried(method: str, step: Step) -> None:
    send, script, _ = sending(method, step, status(200))
    assert send().status_code == 200
    assert len(script.seen) == 2


@pytest.mark.parametrize("step", [*BROKEN, status(502), status(503)])
def test_a_post_is_retried_only_with_a_key(step: Step) -> None:
    keyed, script, _ = sending("POST", step, status(200), headers={"Idempotency-Key": "k"})
    assert keyed().status_code == 200
    assert len(script.seen) == 2
    bare, script, _ = sending("POST", step, status(200))
    if isinstance(step, Exception):
        with pytest.raises(type(step)):
            bare()
    else:
        assert bare().status_code == step.status_code
    assert len(script.seen) == 1


@pytest.mark.parametrize("step", [httpx.ConnectError("refused"), httpx.ConnectTimeout("no way"), status(429)])
def test_a_post_that_never_arrived_is_retried(step: Step) -> None:
    send, script, _ = sending("POST", step, status(201))
    assert send().status_code == 201
    assert len(script.seen) == 2


@pytest.mark.parametrize("code", [200, 304, 400, 404, 409, 422, 500])
def test_other_answers_are_returned_at_once(code: int) -> None:
    send, script, slept = sending("GET", status(code))
    assert send().status_code == code
    assert (len(script.seen), slept) == (1, [])


def test_a_key_in_progress_is_retried_and_another_conflict_is_not() -> None:
    busy = httpx.Response(409, json={"code": "idempotency_in_progress"})
    key = {"Idempotency-Key": "k"}
    send, script, _ = sending("POST", busy, status(202), headers=key)
    assert send().status_code == 202
    assert len(script.seen) == 2
    send, script, _ = sending("POST", httpx.Response(409, json={"code": "conflict"}), headers=key)
    assert send().json() == {"code": "conflict"}


def test_the_last_answer_is_returned_after_all_attempts() -> None:
    send, script, slept = sending("GET", *(status(503) for _ in range(3)), attempts=3)
    assert send().status_code == 503
    assert (len(script.seen), len(slept)) == (3, 2)
    failing, script, _ = sending("GET", *(httpx.ReadError("cut") for _ in range(3)), attempts=3)
    with pytest.raises(httpx.ReadError):
        failing()
    assert len(script.seen) == 3


@given(jitter=st.floats(0, 1, exclude_max=True))
def test_pauses_double_with_jitter_up_to_a_bound(jitter: float) -> None:
    send, _, slept = sending("GET", *(status(503) for _ in range(9)), status(200), attempts=10, jitter=jitter)
    send()
    longest = [min(FIRST_PAUSE_SECONDS * 2**n, LONGEST_PAUSE_SECONDS) for n in range(9)]
    assert all(pause / 2 <= spent <= pause for pause, spent in zip(longest, slept, strict=True))


@given(seconds=st.integers(0, int(LONGEST_RETRY_AFTER_SECONDS)), jitter=st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_shorter_than_retry_after(seconds: int, jitter: float) -> None:
    send, _, slept = sending("GET", status(429, Retry_After=str(seconds)), status(200), jitter=jitter)
    send()
    assert seconds <= slept[0] <= seconds + FIRST_PAUSE_SECONDS


def test_retry_after_may_be_a_date() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    send, _, slept = sending("GET", status(503, Retry_After=moment), status(200))
    send()
    assert 0 < slept[0] <= 20 + FIRST_PAUSE_SECONDS


@pytest.mark.parametrize("text", ["", "soon", "-3", "Wed, 99 Foo 2020"])
def test_an_unreadable_retry_after_is_ignored(text: str) -> None:
    send, _, slept = sending("GET", status(503, Retry_After=text), status(200))
    send()
    assert slept == [pytest.approx(0.75 * FIRST_PAUSE_SECONDS)]


def test_a_long_retry_after_is_returned_to_the_caller() -> None:
    send, script, slept = sending("GET", status(503, Retry_After="3600"))
    assert send().status_code == 503
    assert (len(script.seen), slept) == (1, [])


def test_an_upload_is_read_again_from_the_beginning(tmp_path) -> None:  # type: ignore[no-untyped-def]  # pytest's own
    content = bytes(range(256)) * 5000
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    digest = "sha256:" + "0" * 64
    missing = httpx.Response(
        404, headers={"Content-Type": "application/problem+json"}, json={"code": "not_found", "detail": "none"}
    )
    missing.headers["Content-Type"] = "application/problem+json"
    stored = {"id": digest, "kind": "torchscript", "size_bytes": 1, "created_at": "2026-01-01T00:00:00Z"}
    script = Script(missing, status(503), httpx.ReadError("cut"), httpx.Response(201, json=stored))
    with Client("http://service.test", transport=script, sleep=lambda _seconds: None) as client:
        assert client.artifacts.upload(path).id == digest
    assert [(method, body == content) for method, body in script.seen[1:]] == [("PUT", True)] * 3


def test_an_error_after_all_retries_is_an_exception_of_the_tree() -> None:
    def client(*steps: Step) -> Client:
        return Client("http://service.test", transport=Script(*steps), attempts=2, sleep=lambda _seconds: None)

    def problem(code: int, name: str) -> httpx.Response:
        document = {"code": name, "detail": "later", "hint": "wait", "request_id": "r1"}
        answer = httpx.Response(code, json=document)
        answer.headers["Content-Type"] = "application/problem+json"
        return answer

    busy = [problem(429, "too_many_requests") for _ in range(2)]
    with client(*busy) as made, pytest.raises(TooManyRequests) as caught:
        made.models.get("mdl_1")
    assert (caught.value.hint, caught.value.request_id) == ("wait", "r1")
    broken = [problem(503, "unavailable") for _ in range(2)]
    with client(*broken) as made, pytest.raises(ServiceFault):
        made.models.get("mdl_1")
    with client(*(httpx.ReadTimeout("") for _ in range(2))) as made, pytest.raises(ServiceUnreachable, match="in time"):
        made.models.get("mdl_1")
