"""`/openapi.json` and `/docs`: the specification, and a page made from it that needs neither network nor JavaScript."""

from __future__ import annotations

import json
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast

from apiflask import APIBlueprint, APIFlask
from flask import current_app, render_template, request
from markupsafe import Markup
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import FAILURES, PROBLEMS
from gradinspect.report.html.environment import marked
from service.api.description.schema_text import rows_of, words_of
from service.api.http.answers import conditional
from service.api.http.operations import Answer, operation
from service.api.http.problem_json import type_of

PAGE_POLICY = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"

EXTENSION = "gradinspect_specification"

Json = dict[str, Any]  # Any: JSON

_LOCK = Lock()

blueprint = APIBlueprint(
    "documentation", __name__, tag="operations", template_folder="templates", static_folder="static",
    static_url_path="/docs/static",
)  # fmt: skip


@blueprint.get("/openapi.json")
@operation(
    scope=None,
    answers=[
        Answer(200, "The OpenAPI 3.1 document.", other=["application/json"], headers=["ETag"]),
        Answer(304, "The document is still the one with that ETag."),
    ],
    headers=["If-None-Match"],
)
def get_specification() -> Response:
    """Return the specification of this API."""
    return conditional(Response(_written().text, mimetype="application/json"))


@blueprint.get("/docs")
@operation(scope=None, answers=[Answer(200, "A page for people.", other=["text/html"])])
def get_documentation() -> Response:
    """Show this API as a page, which works offline."""
    specification = _specification()
    page = render_template(
        "docs.html",
        info=specification["info"],
        tags=[(tag, _operations_with_tag(specification, tag["name"])) for tag in specification["tags"]],
        schemas=specification["components"]["schemas"],
        problems={code: (type_of(code).partition("#")[2], row) for code, row in PROBLEMS.items()},
        failures=FAILURES,
        rows_of=rows_of,
        words_of=words_of,
        marked=_marked,
        to_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        base_url=request.url_root.rstrip("/"),
    )
    return conditional(Response(page, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY}))


def _marked(text: str) -> Markup:
    """Return a text with the names between backticks as code, line by line; everything is escaped."""
    return Markup("\n").join(map(marked, text.split("\n")))


@dataclass(frozen=True)
class Written:
    """The specification of one application, and its JSON."""

    specification: Json
    text: str


def write_specification(app: APIFlask) -> None:
    """Make the specification of an application once, when it starts: it takes half a second of CPU."""
    with app.app_context():
        specification = cast("Json", app.spec)
    app.extensions[EXTENSION] = Written(specification, json.dumps(specification, ensure_ascii=False))


def _written() -> Written:
    with _LOCK:  # an application that was not prepared, as in a test
        if EXTENSION not in current_app.extensions:
            write_specification(cast("APIFlask", current_app))
    return cast("Written", current_app.extensions[EXTENSION])


def _specification() -> Json:
    return _written().specification


def _operations_with_tag(specification: Json, tag: str) -> list[tuple[str, str, Json]]:
    return [
        (path, method.upper(), _without_references(entry, specification["components"]))
        for path, methods in specification["paths"].items()
        for method, entry in methods.items()
        if tag in entry["tags"]
    ]


def _without_references(operation: Json, components: Json) -> Json:
    """Return an operation with its shared parameters, responses and headers written out."""

    def read(part: Json) -> Json:
        if "$ref" not in part:
            return part
        kind, name = part["$ref"].split("/")[-2:]
        shared: Json = components[kind][name]
        return shared | {key: value for key, value in part.items() if key != "$ref"}

    responses = {status: dict(read(response)) for status, response in operation["responses"].items()}
    for response in responses.values():
        response["headers"] = {name: read(header) for name, header in response.get("headers", {}).items()}
    return operation | {"parameters": [read(part) for part in operation["parameters"]], "responses": responses}
