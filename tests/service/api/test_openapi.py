"""The specification is valid, current, complete, and what the service does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.openapi_document import document

COMMITTED = Path(__file__).parents[3] / "openapi.json"
PROMISED = {
    "/v1/artifacts": {"post"}, "/v1/artifacts/{artifact_id}": {"put", "get", "head", "delete"},
    "/v1/models": {"get", "head", "post"}, "/v1/models/{model_id}": {"get", "head", "delete"},
    "/v1/models:validate": {"post"}, "/v1/inspections": {"get", "head", "post"},
    "/v1/inspections/{inspection_id}": {"get", "head"}, "/v1/inspections/{inspection_id}/cancel": {"post"},
    "/v1/inspections/{inspection_id}/report": {"get", "head"},
    "/v1/inspections/{inspection_id}/layers": {"get", "head"},
    "/v1/inspections/{inspection_id}/parameters": {"get", "head"},
    "/v1/inspections/{inspection_id}/lr-scales": {"get", "head"},
    "/v1/inspections/{inspection_id}/findings": {"get", "head"},
    "/v1/inspections/{inspection_id}/events": {"get", "head"}, "/v1/layers": {"get", "head"},
    "/v1/parameters": {"get", "head"}, "/v1/comparisons": {"get", "head"}, "/v1/policies": {"get", "head", "post"},
    "/v1/policies/{policy_id}": {"get", "head", "delete"}, "/openapi.json": {"get", "head"}, "/docs": {"get", "head"},
    "/healthz": {"get", "head"}, "/readyz": {"get", "head"}, "/metrics": {"get", "head"},
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


def test_every_promised_path_and_method_is_there(specification: str) -> None:
    paths = json.loads(specification)["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == PROMISED


def test_the_service_gives_its_specification(client: FlaskClient, specification: str) -> None:
    answer = client.get("/openapi.json")
    assert answer.get_json() == json.loads(specification)
    again = client.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_the_documentation_needs_nothing_from_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/docs")
    assert answer.mimetype == "text/html"
    text = answer.get_data(as_text=True)
    assert "<script" not in text
    assert 'src="http' not in text
    for operation in ("submit_inspection", "put_artifact", "get_comparison"):
        assert f'id="{operation}"' in text
