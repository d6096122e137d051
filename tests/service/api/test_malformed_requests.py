"""Forty different malformed requests: each response names the field and what to change, and none is a 500."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gradinspect.contracts.problems import PROBLEMS
from tests.support.callers import REQUEST, SPEC, pointers

JSON = "application/json"
INSPECTIONS = "/v1/inspections"
LINEAR = {"type": "Linear", "out_features": 4}
Send = Callable[[FlaskClient], TestResponse]


def with_layers(*layers: Any) -> dict[str, Any]:  # Any: JSON, right or wrong
    return {"model": {"spec": {**SPEC, "layers": list(layers)}}}


def nested(depth: int) -> dict[str, Any]:
    layer: dict[str, Any] = LINEAR
    for _ in range(depth):
        layer = {"type": "Sequential", "layers": [layer]}
    return layer


def body(value: Any) -> Send:  # Any: JSON, right or wrong
    return lambda client: client.post(INSPECTIONS, json=value)


def raw(text: bytes | str, content_type: str = JSON, **headers: str) -> Send:
    return lambda client: client.post(INSPECTIONS, data=text, content_type=content_type, headers=headers)


def changed(**fields: Any) -> Send:  # Any: JSON, right or wrong
    return body({**REQUEST, **fields})


def file(data: bytes, **fields: str) -> Send:
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="m.pt"\r\n\r\n'
    form = head + data + b"\r\n--X--\r\n"
    return lambda client: client.post("/v1/models", data=form, content_type="multipart/form-data; boundary=X", **fields)


TEXT = json.dumps(REQUEST)
SPEC_AT = "/model/spec"

# name → (request, code, a pointer that the problem must have or "", a word that it must contain)
WRONG: dict[str, tuple[Send, str, str, str]] = {
    # Wrong as JSON
    "no body": (raw(b""), "malformed_json", "", "empty"),
    "half a body": (raw(TEXT[:-7]), "malformed_json", "", "line 1"),
    "two bodies": (raw(TEXT + TEXT), "malformed_json", "", "column"),
    "not UTF-8": (raw(b'{"model": "\xff\xfe"}'), "malformed_json", "", "UTF-8"),
    "a key twice": (raw(TEXT[:-1] + ', "seed": 1, "seed": 2}'), "malformed_json", "", "'seed'"),
    "NaN": (raw(TEXT[:-1] + ', "optimizer": {"type": "sgd", "lr": NaN}}'), "malformed_json", "", "NaN"),
    "infinity": (raw(TEXT[:-1] + ', "optimizer": {"type": "sgd", "lr": -Infinity}}'), "malformed_json", "", "Infinity"),
    "a huge integer": (raw(TEXT[:-1] + ', "seed": 1' + "0" * 400 + "}"), "malformed_json", "", "64 bits"),
    "deep recursion": (raw('{"model":' * 5000 + "1" + "}" * 5000), "malformed_json", "", "nested"),
    "a deep list": (raw('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}"), "malformed_json", "", "nested"),
    "a list": (raw("[]"), "invalid_request", "", "object"),
    "a number": (raw("17"), "invalid_request", "", "object"),
    "null": (raw("null"), "invalid_request", "", "object"),
    # Wrong as a request
    "no model": (body({}), "invalid_request", "/model", "required"),
    "an unknown field": (changed(lerning_rate=0.1), "invalid_request", "/lerning_rate", "unknown field"),
    "a wrong type": (changed(seed="0"), "invalid_request", "/seed", "integer"),
    "a bool for a number": (changed(seeds=True), "invalid_request", "/seeds", "integer"),
    "an unknown loss": (changed(loss="hinge"), "invalid_request", "/loss", "cross_entropy"),
    "a negative seed": (changed(seed=-1), "invalid_request", "/seed", "greater"),
    "too many seeds": (changed(seeds=33), "invalid_request", "/seeds", "32"),
    "a diagnostic twice": (changed(diagnostics=["noise", "noise"]), "invalid_request", "", "twice"),
    "an id of another noun": (body({"model": "insp_1"}), "invalid_request", "/model", ""),
    "a label that is a list": (changed(labels={"team": ["vision"]}), "invalid_request", "/labels/team", "string"),
    "a label with a NUL": (changed(labels={"team": "a\x00b"}), "invalid_request", "/labels/team", "NUL"),
    "too many labels": (changed(labels={f"k{i}": "v" for i in range(33)}), "invalid_request", "/labels", "32"),
    "a negative learning rate": (
        changed(optimizer={"type": "sgd", "lr": -0.1}), "invalid_request", "/optimizer/lr", "greater",
    ),
    "a batch of huge size": (
        changed(data={"inputs": [{"kind": "normal", "shape": [2**31 - 1, 2**31 - 1]}]}),
        "invalid_request", "/data/inputs/0", "elements",
    ),
    "an empty range": (
        changed(data={"inputs": [{"kind": "uniform", "shape": [8, 16], "low": 1, "high": 1}]}),
        "invalid_request", "/data/inputs/0", "low must be smaller",
    ),
    # Wrong as a spec
    "an unknown layer": (body(with_layers({"type": "Liner"})), "invalid_spec", f"{SPEC_AT}/layers/0/type", "Lin"),
    "a layer's misspelt argument": (
        body(with_layers({**LINEAR, "out_feature": 1})), "invalid_spec", f"{SPEC_AT}/layers/0/out_feature", "unknown",
    ),
    "layers that do not fit": (
        body(with_layers(LINEAR, {**LINEAR, "in_features": 5})), "invalid_spec", f"{SPEC_AT}/layers/1/in_features",
        "expects 5",
    ),
    "a layer of huge size": (
        body(with_layers(*[{"type": "Linear", "out_features": 2**31 - 1}] * 2)), "invalid_spec", f"{SPEC_AT}/layers/0",
        "parameters",
    ),
    "a repeat without end": (
        body(with_layers({"repeat": 10**9, "layers": [LINEAR]})), "invalid_spec", f"{SPEC_AT}/layers/0/repeat", "",
    ),
    "containers in containers": (body(with_layers(nested(40))), "malformed_json", "", "nested"),
    "no layers": (body(with_layers()), "invalid_spec", f"{SPEC_AT}/layers", "1 item"),
    "a name twice": (
        body(with_layers({**LINEAR, "name": "a"}, {**LINEAR, "name": "a"})), "invalid_spec",
        f"{SPEC_AT}/layers/1/name", "already",
    ),
    # Wrong as HTTP
    "a form for JSON": (raw("a=1", "application/x-www-form-urlencoded"), "unsupported_media_type", "", "json"),
    "no content type": (
        lambda client: client.post(INSPECTIONS, data=TEXT), "unsupported_media_type", "", "application/json",
    ),
    "another charset": (raw(TEXT, "application/json; charset=utf-16"), "unsupported_media_type", "", "utf-16"),
    "a compressed body": (raw(TEXT, **{"Content-Encoding": "gzip"}), "unsupported_media_type", "", "Content-Encoding"),
    "a body above the limit": (raw(b" " * (2**20 + 1)), "too_large", "", "1048576"),
    "a method that is not there": (
        lambda client: client.patch(INSPECTIONS, json={}), "method_not_allowed", "", "PATCH",
    ),
    "a path that is not there": (lambda client: client.get("/v2/inspections"), "not_found", "", "/v2"),
    "a query where there is none": (
        lambda client: client.post(f"{INSPECTIONS}?wait=3", json=REQUEST), "invalid_request", "/query/wait", "unknown",
    ),
    # Wrong as a file
    "prose for TorchScript": (file(b"It was a dark and stormy night"), "invalid_model", "", "torch.jit.save"),
    "a pickle for TorchScript": (file(b"\x80\x02cos\nsystem\nq\x00."), "invalid_model", "", "pickle"),
    "half an archive": (file(b"PK\x03\x04" + b"\0" * 60), "invalid_model", "", ""),
    "no file": (
        lambda client: client.post(
            "/v1/models", data=b"--X--\r\n", content_type="multipart/form-data; boundary=X"
        ), "invalid_request", "/file", "missing",
    ),
    "no boundary": (
        lambda client: client.post("/v1/models", data=b"x", content_type="multipart/form-data"), "bad_request", "",
        "boundary",
    ),
}  # fmt: skip


def test_there_are_at_least_forty_malformed_requests() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("name", WRONG)
def test_the_problem_of_a_malformed_request_says_what_to_change(client: FlaskClient, name: str) -> None:
    send, code, pointer, word = WRONG[name]
    answer = send(client)
    assert answer.mimetype == "application/problem+json"
    found = answer.get_json()
    assert found["code"] == code, found
    assert 400 <= answer.status_code == found["status"] == PROBLEMS[code].status < 500
    said = [found["detail"], *(error["detail"] for error in found.get("errors", []))]
    assert any(word.lower() in text.lower() for text in said), found
    assert found["hint"]
    if pointer:
        assert pointer in pointers(found), found
    assert client.post(INSPECTIONS, json=REQUEST).status_code == 202  # and the service continues to work


@pytest.mark.parametrize(
    "address",
    [
        "/v1/models", "/v1/inspections", "/v1/layers", "/v1/parameters", "/v1/policies", "/v1/comparisons",
        "/v1/models/x", "/v1/artifacts/x", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_an_unknown_parameter_is_refused_everywhere(client: FlaskClient, address: str) -> None:
    answer = client.get(f"{address}?nobody=1")
    assert answer.status_code == 422
    assert "/query/nobody" in pointers(answer.get_json())


@pytest.mark.parametrize("address", ["/v1/models", "/healthz", "/metrics", "/v1/layers", "/openapi.json"])
def test_an_unavailable_representation_is_refused(client: FlaskClient, address: str) -> None:
    answer = client.get(address, headers={"Accept": "image/png"})
    assert (answer.status_code, answer.get_json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("address", ["/v1/models", "/v1/inspections", "/v1/artifacts/x", "/healthz"])
def test_options_and_405_name_the_methods(client: FlaskClient, address: str) -> None:
    options = client.options(address)
    assert options.status_code == 204
    refused = client.open(address, method="PATCH")
    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == set(options.headers["Allow"].split(", "))


@pytest.mark.parametrize("address", ["/v1/models", "/healthz", "/readyz", "/docs", "/", "/metrics"])
def test_a_head_is_a_get_without_its_body(client: FlaskClient, address: str) -> None:
    head, got = client.head(address), client.get(address)
    assert (head.status_code, head.get_data(), head.mimetype) == (got.status_code, b"", got.mimetype)


def test_the_callers_request_id_is_returned_and_an_invalid_one_replaced(client: FlaskClient) -> None:
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False)):
        answer = client.get("/v1/models/x", headers={"X-Request-Id": given})
        assert (answer.headers["X-Request-Id"] == given) is kept
        assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]
