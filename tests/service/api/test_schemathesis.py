"""Valid and invalid requests generated from the specification get only responses that it describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any  # Any: a test case of any kind of transport

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.context import EXTENSION, Context
from service.openapi_document import document
from service.settings import Settings

EXAMPLES = 6  # of each kind for each operation; longer runs are started manually
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SKIPPED = "/v1/inspections/{inspection_id}/events"  # an endless response for a queued inspection
# Generating an invalid spec takes a minute, so only the operation for inspections gets them.
ONLY_RIGHT = ("/v1/models", "/v1/models:validate")


def cases() -> Iterator[tuple[str, str, GenerationMode]]:
    """List method, path and kind of requests (valid or invalid) for each operation; invalid only where possible."""
    specification = json.loads(document())
    shared = specification["components"]["parameters"]
    for path, methods in specification["paths"].items():
        for method, operation in methods.items():
            if path == SKIPPED:
                continue
            yield method, path, GenerationMode.POSITIVE
            parameters = [shared.get(one.get("$ref", "").rpartition("/")[2], one) for one in operation["parameters"]]
            has_query = any(parameter["in"] == "query" for parameter in parameters)
            has_body = "requestBody" in operation and path not in ONLY_RIGHT
            if has_query or has_body or "{" in path:
                yield method, path, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def schema(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    folder = tmp_path_factory.mktemp("schemathesis")
    shutil.copy(sqlite_template, folder / "gradinspect.db")
    app = create_app(Settings.from_environment({}, data_dir=folder))
    yield schemathesis.openapi.from_wsgi("/openapi.json", app)
    here: Context = app.extensions[EXTENSION]
    here.database.dispose()


@pytest.mark.parametrize(("method", "path", "mode"), list(cases()))
def test_no_request_gets_an_answer_that_is_not_described(
    schema: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=EXAMPLES, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Case[Any]) -> None:
        # The transport of schemathesis does not decompress.
        case.call_and_validate(checks=CHECKS, headers={"Accept-Encoding": "identity"})

    ask()
