"""Requests generated from the specification, with keys of each role, get only answers that it describes, and no 5xx."""

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
from service.context import EXTENSION, SCOPES, Context
from service.openapi_document import document
from service.settings import Settings
from tests.support.tenants import bearer, make_belongings, make_key

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SKIPPED = "/v1/inspections/{inspection_id}/events"  # an endless response for a queued inspection
SLOW_BODIES = ("/v1/models", "/v1/models:validate", "/v1/inspections", "/v1/reports")  # drawing a spec takes seconds
ROLES = ("nobody's", *SCOPES, "rival's")
ALL_CASES = 3000


def operations() -> list[tuple[str, str]]:
    """List method and path of every operation that is asked."""
    return [
        (method, path)
        for path, methods in json.loads(document())["paths"].items()
        for method in methods
        if path != SKIPPED
    ]


OPERATIONS = operations()


@pytest.fixture(scope="module")
def keyed_schema(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BaseSchema, dict[str, dict[str, str]]]]:
    folder = tmp_path_factory.mktemp("schemathesis")
    shutil.copy(sqlite_template, folder / "gradinspect.db")
    plenty = {"submissions_per_minute": 10**6, "uploads_per_minute": 10**6, "report_reads_per_minute": 10**6}
    app = create_app(Settings.from_environment({}, data_dir=folder, require_keys=True, **plenty))
    here: Context = app.extensions[EXTENSION]
    make_belongings(here)
    headers: dict[str, dict[str, str]] = {scope: bearer(make_key(here, scope)) for scope in SCOPES}
    headers |= {"nobody's": {}, "rival's": bearer(make_key(here, "admin", tenant="rival"))}
    yield schemathesis.openapi.from_wsgi("/openapi.json", app), headers
    here.database.dispose()


def ask_all(schema: BaseSchema, headers: dict[str, str], method: str, path: str, examples: int) -> None:
    """Send valid requests of one operation, and check each answer."""

    @given(case=schema[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    @hypothesis_settings(
        max_examples=examples, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Case[Any]) -> None:
        # The transport of schemathesis does not decompress.
        case.call_and_validate(checks=CHECKS, headers={"Accept-Encoding": "identity", **headers})

    ask()


@pytest.mark.parametrize("role", ROLES)
def test_no_role_gets_an_answer_that_is_not_described(
    keyed_schema: tuple[BaseSchema, dict[str, dict[str, str]]], role: str
) -> None:
    schema, headers = keyed_schema
    for method, path in OPERATIONS:
        if path not in SLOW_BODIES or method == "get":
            ask_all(schema, headers[role], method, path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_three_thousand_requests_of_all_roles_get_described_answers(
    keyed_schema: tuple[BaseSchema, dict[str, dict[str, str]]], role: str, method: str, path: str
) -> None:
    schema, headers = keyed_schema
    ask_all(schema, headers[role], method, path, -(-ALL_CASES // (len(ROLES) * len(OPERATIONS))))
