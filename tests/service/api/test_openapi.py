"""The specification is valid, current and complete, and describes what the service does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gradinspect.contracts.spec.layers import LAYER_TYPES
from service.api.inspections import EXAMPLE
from service.openapi_document import document

COMMITTED = Path(__file__).parents[3] / "openapi.json"
PROMISED = {
    "/v1/artifacts": {"post"}, "/v1/artifacts/{artifact_id}": {"put", "get", "delete"},
    "/v1/models": {"get", "post"}, "/v1/models/{model_id}": {"get", "delete"},
    "/v1/models:validate": {"post"}, "/v1/inspections": {"get", "post"},
    "/v1/inspections/{inspection_id}": {"get", "delete"}, "/v1/inspections/{inspection_id}/cancel": {"post"},
    "/v1/inspections/{inspection_id}/report": {"get"},
    "/v1/inspections/{inspection_id}/layers": {"get"},
    "/v1/inspections/{inspection_id}/parameters": {"get"},
    "/v1/inspections/{inspection_id}/lr-scales": {"get"},
    "/v1/inspections/{inspection_id}/prescription": {"get"},
    "/v1/inspections/{inspection_id}/findings": {"get"},
    "/v1/inspections/{inspection_id}/events": {"get"}, "/v1/layers": {"get"},
    "/v1/parameters": {"get"}, "/v1/comparisons": {"get"}, "/v1/policies": {"get", "post"},
    "/v1/reports": {"post"}, "/v1/runs": {"get", "post"}, "/v1/runs/{run_id}": {"get", "delete"},
    "/v1/runs/{run_id}/end": {"post"},
    "/v1/policies/{policy_id}": {"get", "delete"}, "/openapi.json": {"get"}, "/docs": {"get"},
    "/v1/keys": {"get", "post"}, "/v1/keys/{key_id}": {"delete"}, "/v1/usage": {"get"}, "/v1/audit-log": {"get"},
    "/healthz": {"get"}, "/readyz": {"get"}, "/metrics": {"get"},
}  # fmt: skip


@pytest.fixture(scope="module")
def specification() -> str:
    return document()


def test_the_committed_specification_is_current(specification: str) -> None:
    assert COMMITTED.read_text(encoding="utf-8") == specification, (
        "run: python -m service.openapi_document > openapi.json"
    )


def test_the_specification_is_valid(specification: str) -> None:
    OpenAPIV31SpecValidator(json.loads(specification)).validate()


def test_the_specification_stays_small(specification: str) -> None:
    assert len(json.dumps(json.loads(specification), separators=(",", ":"), ensure_ascii=False).encode()) <= 200 * 1024


def test_the_union_of_layers_is_written_once(specification: str) -> None:
    schemas = json.loads(specification)["components"]["schemas"]
    for container in ("Sequential", "Residual", "Repeat", "ModelSpec"):
        assert schemas[container]["properties"]["layers"]["items"] == {"$ref": "#/components/schemas/LayerEntry"}


def test_every_layer_type_is_described_once(specification: str) -> None:
    schemas = json.loads(specification)["components"]["schemas"]
    named = [schemas[one["$ref"].rpartition("/")[2]]["properties"] for one in schemas["LayerEntry"]["oneOf"]]
    constants = [fields["type"] for fields in named if "type" in fields]
    types = [name for one in constants for name in one.get("enum") or [one["const"]]]
    assert sorted(types) == sorted(LAYER_TYPES)


def test_a_spec_that_the_service_accepts_fits_its_schema(specification: str) -> None:
    document = json.loads(specification)
    validator = Draft202012Validator({"$ref": "#/components/schemas/ModelSpec", "components": document["components"]})
    assert not list(validator.iter_errors(EXAMPLE["model"]["spec"]))
    wrong = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 2, "nobody": 1}]}
    assert list(validator.iter_errors(wrong))


def test_every_promised_path_and_method_is_there(specification: str) -> None:
    paths = json.loads(specification)["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == PROMISED


def test_the_service_serves_its_specification(client: FlaskClient, specification: str) -> None:
    answer = client.get("/openapi.json")
    assert answer.get_json() == json.loads(specification)
    again = client.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_the_documentation_loads_no_external_resources(client: FlaskClient) -> None:
    answer = client.get("/docs")
    assert answer.mimetype == "text/html"
    text = answer.get_data(as_text=True)
    assert "<script" not in text
    assert 'src="http' not in text
    for operation in ("submit_inspection", "put_artifact", "get_comparison"):
        assert f'id="{operation}"' in text
