"""Models: registered from specs and files, listed, deleted; specs validated without registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # Any: JSON

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gradinspect.contracts.spec.layers.dense import Linear
from gradinspect.contracts.wire.resources import ModelResource, SpecDescription
from tests.support.callers import REQUEST, SPEC, pointers, problem


def test_a_spec_is_registered_and_read_back(client: FlaskClient) -> None:
    answer = client.post("/v1/models", json={"name": "small", "spec": SPEC})
    assert answer.status_code == 201
    found = ModelResource.model_validate_json(answer.get_data())
    assert answer.headers["Location"] == f"/v1/models/{found.id}"
    assert (found.name, found.kind, found.parameters) == ("small", "spec", 16 * 8 + 8 + 8 * 4 + 4)
    assert found.spec is not None
    assert isinstance(found.spec.layers[0], Linear)
    assert found.input is not None
    assert (found.input.shape, found.input.dtype) == ((16,), "float32")
    assert client.get(f"/v1/models/{found.id}").get_json() == answer.get_json()


def test_equal_specs_have_one_digest(client: FlaskClient) -> None:
    said = {**SPEC, "layers": [{"type": "Linear", "out_features": 8, "bias": True}, *SPEC["layers"][1:]]}
    first, second = (client.post("/v1/models", json={"spec": spec}).get_json() for spec in (SPEC, said))
    assert first["digest"] == second["digest"]
    assert first["id"] != second["id"]


def test_a_preset_is_stored_expanded(client: FlaskClient) -> None:
    answer = client.post("/v1/models", json={"spec": {"preset": "mlp", "input": {"shape": [16]}, "depth": 2}})
    assert answer.status_code == 201
    assert "preset" not in answer.get_json()["spec"]
    assert [layer["type"] for layer in answer.get_json()["spec"]["layers"]][-1] == "Linear"


def test_lists_are_newest_first_and_leave_specs_out(client: FlaskClient) -> None:
    mine = [client.post("/v1/models", json={"name": str(turn), "spec": SPEC}).get_json()["id"] for turn in range(3)]
    first = client.get("/v1/models?limit=2").get_json()
    rest = client.get(f"/v1/models?limit=2&cursor={first['next_cursor']}").get_json()
    assert [item["id"] for item in (*first["items"], *rest["items"])] == mine[::-1]
    assert rest["next_cursor"] is None
    assert first["items"][0]["spec"] is None


def test_a_deleted_model_is_not_found(client: FlaskClient) -> None:
    model = client.post("/v1/models", json={"spec": SPEC}).get_json()["id"]
    assert client.delete(f"/v1/models/{model}").status_code == 204
    problem(client.get(f"/v1/models/{model}"), "not_found")
    problem(client.delete(f"/v1/models/{model}"), "not_found")
    assert pointers(problem(client.post("/v1/inspections", json={"model": model}), "invalid_request")) == ["/model"]


def test_a_model_in_use_cannot_be_deleted_until_its_inspection_has_ended(client: FlaskClient) -> None:
    model = client.post("/v1/models", json={"spec": SPEC}).get_json()["id"]
    inspection = client.post("/v1/inspections", json={"model": model}).get_json()["id"]
    problem(client.delete(f"/v1/models/{model}"), "in_use")
    client.post(f"/v1/inspections/{inspection}/cancel")
    assert client.delete(f"/v1/models/{model}").status_code == 204
    assert client.get(f"/v1/inspections/{inspection}").get_json()["model"] == model


def test_a_model_has_exactly_one_source(client: FlaskClient) -> None:
    for body in ({"name": "empty"}, {"spec": SPEC, "torchscript": f"sha256:{'0' * 64}"}):
        problem(client.post("/v1/models", json=body), "invalid_request")


@pytest.mark.parametrize(("field", "more"), [("torchscript", {}), ("weights", {"spec": SPEC})])
def test_a_file_that_was_not_uploaded_is_a_wrong_field(
    client: FlaskClient, field: str, more: dict[str, object]
) -> None:
    body = {field: f"sha256:{'0' * 64}", **more}
    found = problem(client.post("/v1/models", json=body), "invalid_request")
    assert pointers(found) == [f"/{field}"]
    assert "upload it first" in found["detail"]


def test_a_name_with_a_nul_is_a_wrong_field(client: FlaskClient) -> None:
    for path in ("/v1/models", "/v1/models:validate"):
        found = problem(client.post(path, json={"name": "a\x00b", "spec": SPEC}), "invalid_request")
        assert pointers(found) == ["/name"]
        assert "NUL" in found["errors"][0]["detail"]


@pytest.mark.parametrize("body", [{"spec": SPEC}, {"name": "small", "spec": SPEC}, SPEC], ids=["spec", "named", "bare"])
def test_a_spec_is_checked_in_every_form(client: FlaskClient, body: dict[str, object]) -> None:
    answer = client.post("/v1/models:validate", json=body)
    assert answer.status_code == 200
    found = SpecDescription.model_validate_json(answer.get_data())
    assert [(layer.name, layer.kind, layer.output_shape) for layer in found.layers] == [
        ("0", "Linear", (8,)), ("1", "ReLU", (8,)), ("2", "Linear", (4,)),
    ]  # fmt: skip
    assert (found.parameters, found.output_shape) == (172, (4,))


@pytest.mark.parametrize(("body", "place"), [(lambda spec: {"spec": spec}, "/spec"), (lambda spec: spec, "")])
def test_a_wrong_spec_names_its_layer_in_every_form(
    client: FlaskClient, body: Callable[[dict[str, Any]], dict[str, Any]], place: str
) -> None:
    spec = {**SPEC, "layers": [{"type": "Linear", "out_features": 8}, {"type": "Linear", "in_features": 9}]}
    found = problem_of_spec(client.post("/v1/models:validate", json=body(spec)))
    assert f"{place}/layers/1/out_features" in pointers(found)


def problem_of_spec(answer: TestResponse) -> dict[str, object]:
    return problem(answer, str(answer.get_json()["code"]))


def test_checking_a_spec_registers_nothing(client: FlaskClient) -> None:
    client.post("/v1/models:validate", json=REQUEST["model"])
    assert client.get("/v1/models").get_json()["items"] == []
