"""Exported programs over HTTP: uploaded both ways, registered, and taken inline by an inspection."""

from __future__ import annotations

import hashlib
import io

import pytest
from flask.testing import FlaskClient

from gradinspect.contracts.wire.resources import ModelResource
from tests.support.callers import pointers, problem
from tests.support.exported_files import altered, exported_files, node_of
from tests.support.networks import torchscript_files


def put(client: FlaskClient, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    answer = client.put(f"/v1/artifacts/{digest}", data=data, content_type="application/octet-stream")
    assert answer.status_code in (200, 201), answer.get_data()
    assert answer.get_json()["kind"] == "exported"
    return digest


def test_a_file_is_uploaded_and_registered_in_one_call(client: FlaskClient) -> None:
    form = {"file": (io.BytesIO(exported_files()["mlp"]), "model.pt2"), "name": "mine"}
    answer = client.post("/v1/models", data=form, content_type="multipart/form-data")
    assert answer.status_code == 201
    found = ModelResource.model_validate_json(answer.get_data())
    assert (found.kind, found.name, found.exported, found.parameters) == ("exported", "mine", found.digest, None)
    assert client.get(f"/v1/models/{found.id}").get_json()["exported"] == found.digest


def test_an_uploaded_file_is_registered_by_its_digest_and_inspected(client: FlaskClient) -> None:
    digest = put(client, exported_files()["mlp"])
    model = client.post("/v1/models", json={"exported": digest}).get_json()["id"]
    assert client.post("/v1/inspections", json={"model": model}).status_code == 202
    inline = client.post("/v1/inspections", json={"model": {"exported": digest, "name": "inline"}})
    assert inline.status_code == 202
    again = client.post("/v1/inspections", json={"model": {"exported": digest, "name": "inline"}})
    assert again.get_json()["model"] == inline.get_json()["model"]


def test_an_input_and_a_digest_of_another_kind_are_refused(client: FlaskClient) -> None:
    digest = put(client, exported_files()["mlp"])
    answer = client.post("/v1/models", json={"exported": digest, "input": {"shape": [6]}})
    assert "an exported program has its own" in str(problem(answer, "invalid_request"))
    scripted = torchscript_files.scripted(torchscript_files.mlp())
    other = f"sha256:{hashlib.sha256(scripted).hexdigest()}"
    client.put(f"/v1/artifacts/{other}", data=scripted, content_type="application/octet-stream")
    assert pointers(problem(client.post("/v1/models", json={"exported": other}), "invalid_model")) == ["/exported"]
    inline = client.post("/v1/inspections", json={"model": {"exported": other}})
    assert pointers(problem(inline, "invalid_model")) == ["/model/exported"]
    missing = client.post("/v1/inspections", json={"model": {"exported": f"sha256:{'0' * 64}"}})
    assert pointers(problem(missing, "invalid_request")) == ["/model/exported"]


@pytest.mark.parametrize("way", ["put", "form"])
def test_a_refused_operator_is_named_at_the_upload(client: FlaskClient, way: str) -> None:
    def forbidden(document: object) -> None:
        node_of(document, "torch.ops.aten.linear.default")["target"] = "torch.ops.aten.from_file.default"

    data = altered(exported_files()["mlp"], forbidden)
    if way == "put":
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        answer = client.put(f"/v1/artifacts/{digest}", data=data, content_type="application/octet-stream")
    else:
        form = {"file": (io.BytesIO(data), "model.pt2")}
        answer = client.post("/v1/models", data=form, content_type="multipart/form-data")
    detail = str(problem(answer, "unsupported_operator")["detail"])
    assert "models/model.json, /graph_module/graph/nodes/0/target: the operator aten.from_file.default" in detail
