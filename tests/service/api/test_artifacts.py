"""Artifacts: uploaded raw and as a form, recognised, read back, deleted; and models registered from them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any  # Any: arguments of werkzeug

import pytest
import torch
from apiflask import APIFlask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gradinspect.contracts.wire.messages import Limits
from gradinspect.contracts.wire.resources import ArtifactResource
from service.app import create_app
from service.context import EXTENSION, Context
from service.db.workers import OneWorker
from service.settings import Settings
from tests.support.callers import REQUEST, SPEC, pointers, problem
from tests.support.specimens import has_bytes, write_worker

BYTES = b"some bytes that are no model" * 100


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def safetensors(**tensors: tuple[int, ...]) -> bytes:
    """Write a safetensors file of zeros with these names and shapes, without the library."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * end


@pytest.fixture
def scripted(tmp_path: Path) -> bytes:
    """Make a small TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        path = tmp_path / "model.pt"
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())), path)
    return path.read_bytes()


def put(client: FlaskClient, data: bytes, name: str | None = None, **options: Any) -> TestResponse:
    return client.put(f"/v1/artifacts/{name or digest(data)}", data=data, **options)


def post(client: FlaskClient, address: str, data: bytes, **fields: str) -> TestResponse:
    return client.post(address, data={"file": (BytesIO(data), "model.pt"), **fields})


def test_bytes_are_stored_once_under_their_digest(client: FlaskClient) -> None:
    first, second = put(client, BYTES), put(client, BYTES)
    assert (first.status_code, second.status_code) == (201, 200)
    found = ArtifactResource.model_validate_json(first.get_data())
    assert (found.id, found.kind, found.size_bytes) == (digest(BYTES), "unknown", len(BYTES))
    assert first.headers["Location"] == f"/v1/artifacts/{found.id}"
    assert second.get_json() == first.get_json() == client.get(first.headers["Location"]).get_json()
    assert client.head(first.headers["Location"]).status_code == 200


def test_downloaded_bytes_equal_the_uploaded_ones(client: FlaskClient) -> None:
    place = put(client, BYTES).headers["Location"]
    answer = client.get(place, headers={"Accept": "application/octet-stream"})
    assert (answer.mimetype, answer.get_data()) == ("application/octet-stream", BYTES)
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = client.head(place, headers={"Accept": "application/octet-stream"})
    assert (head.content_length, head.get_data()) == (len(BYTES), b"")


def test_a_multipart_form_is_accepted(client: FlaskClient) -> None:
    answer = post(client, "/v1/artifacts", BYTES)
    assert (answer.status_code, answer.get_json()["id"]) == (201, digest(BYTES))
    assert client.get(answer.headers["Location"]).status_code == 200


def test_kinds_are_recognised(client: FlaskClient, scripted: bytes) -> None:
    assert put(client, scripted).get_json()["kind"] == "torchscript"
    assert put(client, safetensors(x=(8, 4))).get_json()["kind"] == "safetensors"


def test_an_upload_with_a_wrong_digest_is_not_stored(client: FlaskClient) -> None:
    name = digest(b"others")
    problem(put(client, BYTES, name), "digest_mismatch")
    problem(client.get(f"/v1/artifacts/{name}"), "not_found")
    problem(client.get(f"/v1/artifacts/{digest(BYTES)}"), "not_found")


@pytest.mark.parametrize("name", ["sha256:ABC", "sha256:" + "A" * 64, "md5:" + "0" * 32, "model.pt", "%00"])
def test_a_name_that_is_not_a_digest_is_refused(client: FlaskClient, name: str) -> None:
    assert pointers(problem(put(client, BYTES, name), "invalid_request")) == ["/path/artifact_id"]
    problem(client.get(f"/v1/artifacts/{name}"), "not_found")
    problem(client.delete(f"/v1/artifacts/{name}"), "not_found")


def test_an_upload_without_a_length_is_refused(client: FlaskClient) -> None:
    answer = client.put(
        f"/v1/artifacts/{digest(BYTES)}", input_stream=BytesIO(BYTES), headers={"Transfer-Encoding": "chunked"}
    )
    problem(answer, "length_required")


def test_a_truncated_upload_is_not_stored(client: FlaskClient) -> None:
    length = {"CONTENT_LENGTH": str(len(BYTES))}
    answer = put(client, BYTES[:100], digest(BYTES), environ_overrides=length)
    problem(answer, "short_body")
    problem(client.get(f"/v1/artifacts/{digest(BYTES)}"), "not_found")


def test_an_upload_above_the_limit_is_refused(settings_of_sqlite: Settings) -> None:
    client = create_app(settings_of_sqlite.model_copy(update={"max_upload_bytes": 1000})).test_client()
    problem(put(client, BYTES), "too_large")
    problem(post(client, "/v1/artifacts", BYTES), "too_large")
    assert put(client, BYTES[:1000]).status_code == 201


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(client: FlaskClient, content_type: str) -> None:
    problem(put(client, BYTES, content_type=content_type), "unsupported_media_type")
    problem(client.post("/v1/artifacts", data=BYTES, content_type=content_type), "unsupported_media_type")


def test_a_full_disk_is_a_507(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    problem(put(client, BYTES), "disk_full")
    monkeypatch.undo()
    problem(client.get(f"/v1/artifacts/{digest(BYTES)}"), "not_found")


def test_the_number_of_concurrent_uploads_is_limited(settings_of_sqlite: Settings) -> None:
    app = create_app(settings_of_sqlite.model_copy(update={"max_concurrent_uploads": 1}))
    here: Context = app.extensions[EXTENSION]
    assert here.uploads.acquire()
    answer = put(app.test_client(), BYTES)
    problem(answer, "too_many_requests")
    assert int(answer.headers["Retry-After"]) > 0
    here.uploads.release()
    assert put(app.test_client(), BYTES).status_code == 201


def test_without_confinement_uploads_are_refused_and_specs_accepted(settings_of_sqlite: Settings) -> None:
    worker = OneWorker(
        name="w1", queues=("cpu",), slots=1, torch_version="2", confinement="limits", reason="no Landlock",
        limits=Limits(),
    )  # fmt: skip
    write_worker(settings_of_sqlite, worker)
    client = create_app(settings_of_sqlite).test_client()
    found = problem(put(client, BYTES), "uploads_disabled")
    assert "no Landlock" in found["detail"]
    problem(post(client, "/v1/models", BYTES), "uploads_disabled")
    problem(client.post("/v1/models", json={"torchscript": digest(BYTES)}), "uploads_disabled")
    assert client.post("/v1/inspections", json=REQUEST).status_code == 202


def test_a_file_is_uploaded_and_registered_in_one_call(client: FlaskClient, scripted: bytes) -> None:
    shape = json.dumps({"shape": [4]})
    answer = post(client, "/v1/models", scripted, name="mine", input=shape)
    assert answer.status_code == 201
    found = answer.get_json()
    assert (found["name"], found["kind"], found["digest"]) == ("mine", "torchscript", digest(scripted))
    assert (found["parameters"], found["input"]) == (None, {"shape": [4], "dtype": "float32"})
    assert client.get(f"/v1/artifacts/{found['torchscript']}").status_code == 200
    assert client.post("/v1/inspections", json={"model": found["id"]}).status_code == 202


def test_a_model_without_an_input_needs_data(client: FlaskClient, scripted: bytes) -> None:
    put(client, scripted)
    model = client.post("/v1/models", json={"torchscript": digest(scripted)}).get_json()["id"]
    answer = client.post("/v1/inspections", json={"model": model})
    assert pointers(problem(answer, "invalid_request")) == ["/data"]
    data = {"inputs": [{"kind": "normal", "shape": [8, 4]}]}
    assert client.post("/v1/inspections", json={"model": model, "data": data}).status_code == 202


@pytest.mark.parametrize(
    ("data", "word"),
    [(BYTES, "zip"), (b"", "empty"), (b"\x80\x04K\x01.", "pickle"), (b"PK\x03\x04" + b"x" * 100, "")],
    ids=["prose", "nothing", "a pickle", "half an archive"],
)
def test_a_file_that_is_not_torchscript_is_refused_with_advice(client: FlaskClient, data: bytes, word: str) -> None:
    found = problem(post(client, "/v1/models", data), "invalid_model")
    assert word in found["detail"]
    problem(client.get(f"/v1/artifacts/{digest(data)}"), "not_found")


def test_an_artifact_of_another_kind_cannot_be_registered_as_a_model(client: FlaskClient) -> None:
    put(client, BYTES)
    found = problem(client.post("/v1/models", json={"torchscript": digest(BYTES)}), "invalid_model")
    assert pointers(found) == ["/torchscript"]


@pytest.mark.parametrize("name", ["", "x" * 257, "a\x00b"])
def test_a_wrong_field_of_the_form_is_named(client: FlaskClient, scripted: bytes, name: str) -> None:
    assert pointers(problem(post(client, "/v1/models", scripted, name=name), "invalid_request")) == ["/name"]
    problem(post(client, "/v1/models", scripted, nobody="1"), "invalid_request")
    problem(post(client, "/v1/models", scripted, input="{"), "malformed_json")
    problem(client.post("/v1/models", data={"name": "no file"}, content_type="multipart/form-data"), "invalid_request")


def test_an_artifact_in_use_cannot_be_deleted(client: FlaskClient, scripted: bytes) -> None:
    model = post(client, "/v1/models", scripted).get_json()["id"]
    problem(client.delete(f"/v1/artifacts/{digest(scripted)}"), "in_use")
    client.delete(f"/v1/models/{model}")
    assert client.delete(f"/v1/artifacts/{digest(scripted)}").status_code == 204
    problem(client.delete(f"/v1/artifacts/{digest(scripted)}"), "not_found")


def test_weights_must_fit_their_spec(client: FlaskClient) -> None:
    right = safetensors(**{"0__weight": (8, 16), "0__bias": (8,), "2__weight": (4, 8), "2__bias": (4,)})
    short = safetensors(**{"0__weight": (8, 16), "0__bias": (8,)})
    wrong = safetensors(**{"0__weight": (8, 15), "0__bias": (8,), "2__weight": (4, 8), "2__bias": (4,)})
    for data in (right, short, wrong, BYTES):
        put(client, data)
    answer = client.post("/v1/models", json={"spec": SPEC, "weights": digest(right)})
    assert (answer.status_code, answer.get_json()["weights"]) == (201, digest(right))
    for data, word in ((short, "'2.weight'"), (wrong, "[8, 15]"), (BYTES, "not safetensors")):
        found = problem(client.post("/v1/models", json={"spec": SPEC, "weights": digest(data)}), "invalid_data")
        assert pointers(found) == ["/weights"]
        assert word in found["detail"]


def test_data_must_hold_the_tensors_that_are_named(client: FlaskClient) -> None:
    data = safetensors(x=(8, 16), y=(8,), few=(3,), one=())
    put(client, data)

    def ask(**named: object) -> TestResponse:
        return client.post("/v1/inspections", json={**REQUEST, "data": {"artifact": digest(data), **named}})

    assert ask(inputs=["x"], target="y").status_code == 202
    for named, pointer in (
        ({"inputs": ["z"]}, "/data/inputs/0"),
        ({"inputs": ["x"], "target": "few"}, "/data/target"), ({"inputs": ["one"]}, "/data/inputs/0"),
    ):  # fmt: skip
        assert pointers(problem(ask(**named), "invalid_request")) == [pointer]


def test_data_of_another_kind_is_refused(client: FlaskClient) -> None:
    put(client, BYTES)
    data = {"artifact": digest(BYTES), "inputs": ["x"]}
    problem(client.post("/v1/inspections", json={**REQUEST, "data": data}), "invalid_data")


def test_data_in_use_cannot_be_deleted(client: FlaskClient) -> None:
    data = safetensors(x=(8, 16))
    put(client, data)
    answer = client.post("/v1/inspections", json={**REQUEST, "data": {"artifact": digest(data), "inputs": ["x"]}})
    problem(client.delete(f"/v1/artifacts/{digest(data)}"), "in_use")
    client.post(f"/v1/inspections/{answer.get_json()['id']}/cancel")
    assert client.delete(f"/v1/artifacts/{digest(data)}").status_code == 204


def test_a_hostile_safetensors_file_is_refused(client: FlaskClient) -> None:
    text = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
    problem(put(client, struct.pack("<Q", len(text)) + text + b"\0" * 4), "invalid_data")


def test_the_bytes_of_another_tenant_are_not_found(app: APIFlask, client: FlaskClient) -> None:
    put(client, BYTES)
    here: Context = app.extensions[EXTENSION]
    assert has_bytes(here.store, digest(BYTES), tenant="default")
    assert not has_bytes(here.store, digest(BYTES), tenant="other")
