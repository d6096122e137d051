"""The OpenAPI 3.1 specification, made from the operations that views declare.

APIFlask lists the paths, names and tags; what goes in and out of each is filled in here from `operations`.
`python -m service.openapi_document > openapi.json` writes the file that is kept in the repository.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from re import findall
from typing import Any

from apiflask import APIFlask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gradinspect.contracts.problems import PROBLEMS
from gradinspect.contracts.request.request import MODEL_ID
from service.api.http.operations import Answer, Operation, Schema, offered_media_types, operations_of
from service.api.http.problem_json import MEDIA_TYPE, ProblemDocument
from service.api.http.reading import JSON
from service.query_strings import FILTER_MARK

COMPONENT = "#/components/schemas/{model}"

# Problems that any operation can end in, and those that come with a body or an id in the path.
ALWAYS = ("bad_request", "invalid_request", "internal", "unavailable")
WITH_BODY = ("short_body", "too_large", "unsupported_media_type")
WITH_JSON = ("malformed_json",)

PATH_PARAMETERS: dict[str, Schema] = {
    "artifact_id": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    "model_id": {"type": "string", "pattern": MODEL_ID.pattern},
    "inspection_id": {"type": "string", "pattern": "^insp_[0-9a-f-]{36}$"},
    "policy_id": {"type": "string", "pattern": "^(default|pol_[0-9a-f-]{36})$"},
}
HEADERS: dict[str, tuple[str, Schema]] = {
    "Accept": ("The representation to answer with.", {"type": "string"}),
    "Content-Length": ("Size of the body in bytes.", {"type": "integer", "minimum": 0}),
    "ETag": ("Changes whenever the answer does.", {"type": "string"}),
    "Idempotency-Key": (
        "A key of the caller's making: the same key with the same body gives the same inspection.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
    "If-None-Match": ("An ETag seen before; 304 while it still holds.", {"type": "string"}),
    "Last-Event-ID": ("Id of the last event seen; what it told is not told again.", {"type": "string"}),
    "Link": ('The next page, `rel="next"`.', {"type": "string"}),
    "Location": ("Where the resource is.", {"type": "string"}),
    "Prefer": ("`wait=N` waits up to N ≤ 30 seconds for the end (RFC 7240).", {"type": "string"}),
    "Preference-Applied": ("The preference that was followed.", {"type": "string"}),
    "Retry-After": ("Seconds until another look is worth it.", {"type": "integer", "minimum": 0}),
}


def complete_specification(app: APIFlask, skeleton: dict[str, Any]) -> dict[str, Any]:
    """Fill in what APIFlask's skeleton leaves open."""
    described = list(operations_of(app))
    names = _add_schemas(skeleton, [item for _, item in described])
    paths: dict[str, dict[str, Schema]] = defaultdict(dict)
    for (path, method, view, tag), item in described:
        heading = skeleton["paths"][path].get(method) or skeleton["paths"][path]["get"]
        entry = {key: heading[key] for key in ("summary", "description") if key in heading}
        entry["tags"] = [tag]
        entry["operationId"] = f"{view}_head" if method == "head" else view
        entry["parameters"] = [*_path_parameters(path), *_query_parameters(item, skeleton), *_header_parameters(item)]
        if item.body is not None or item.other_bodies:
            entry["requestBody"] = {"required": True, "content": _request_content(item, names)}
        entry["responses"] = _responses(path, item, names, headless=method == "head")
        paths[path][method] = entry
    skeleton["paths"] = {path: paths[path] for path in sorted(paths)}
    return skeleton


def _add_schemas(skeleton: dict[str, Any], described: Sequence[Operation]) -> dict[type[BaseModel], str]:
    models: dict[type[BaseModel], None] = {ProblemDocument: None}
    for item in described:
        bodies = [item.body, *(answer.body for answer in item.answers)]
        models.update({model: None for model in bodies if model is not None})
    references, definitions = models_json_schema([(model, "validation") for model in models], ref_template=COMPONENT)
    schemas = definitions["$defs"]
    skeleton["components"] = {"schemas": {name: schemas[name] for name in sorted(schemas)}}
    return {model: references[model, "validation"]["$ref"].rpartition("/")[2] for model in models}


def _reference(model: type[BaseModel], names: dict[type[BaseModel], str]) -> Schema:
    return {"$ref": COMPONENT.format(model=names[model])}


def _path_parameters(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]}
        for name in findall(r"{([^}]+)}", path)
    ]


def _query_parameters(item: Operation, skeleton: dict[str, Any]) -> list[Schema]:
    if item.query is None:
        return []
    parameters: list[Schema] = []
    filters: dict[str, Schema] = {}
    for name, schema in item.query.model_json_schema(ref_template=COMPONENT)["properties"].items():
        description = schema.pop("description", None)
        schema.pop("title", None)
        if schema.pop(FILTER_MARK, False):
            filters[name] = {"type": "number"}
        else:
            said = {"description": description} if description else {}
            parameters.append({"name": name, "in": "query", **said, "schema": _without_null(schema)})
    if filters:
        # The rows of one inspection and of all inspections have the same number filters.
        component = f"{item.query.__name__.removeprefix('Inspection').removesuffix('Query')}Filters"
        skeleton["components"]["schemas"][component] = {
            "type": "object",
            "description": "Each key is a query parameter of its own, such as `grad_norm__lt=1e-7`.",
            "properties": filters,
            "additionalProperties": False,
        }
        schema = {"$ref": COMPONENT.format(model=component)}
        parameters.append({"name": "filters", "in": "query", "style": "form", "explode": True, "schema": schema})
    return parameters


def _without_null(schema: Schema) -> Schema:
    """A query parameter is left out, never null."""
    kept = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf" and not (key == "default" and value is None)}
    return rest | kept[0] if len(kept) == 1 else (rest | {"anyOf": kept} if kept else rest)


def _header_parameters(item: Operation) -> list[Schema]:
    return [
        {"name": name, "in": "header", "description": HEADERS[name][0], "schema": HEADERS[name][1]}
        for name in item.headers
        if name not in ("Accept", "Content-Length")  # OpenAPI leaves these to the media types and the transport
    ]


def _request_content(item: Operation, names: dict[type[BaseModel], str]) -> Schema:
    content: Schema = {}
    if item.body is not None:
        content[JSON] = {"schema": _reference(item.body, names)}
        if item.example is not None:
            content[JSON]["example"] = item.example
    return content | {media_type: {"schema": schema} for media_type, schema in item.other_bodies.items()}


def _responses(path: str, item: Operation, names: dict[type[BaseModel], str], *, headless: bool) -> Schema:
    responses: Schema = {}
    for answer in item.answers:
        responses[str(answer.status)] = _response(answer, names, headless=headless)
    for status, codes in sorted(_problems_by_status(path, item).items()):
        content = {} if headless else {"content": {MEDIA_TYPE: {"schema": _reference(ProblemDocument, names)}}}
        description = "\n".join(f"- `{code}`: {PROBLEMS[code].title}." for code in codes)
        responses.setdefault(str(status), {"description": description, **content})
    return responses


def _response(answer: Answer, names: dict[type[BaseModel], str], *, headless: bool) -> Schema:
    response: Schema = {"description": answer.description}
    content: Schema = {}
    if answer.body is not None:
        content[JSON] = {"schema": _reference(answer.body, names)}
    for media_type in answer.other:
        content[media_type] = {"schema": {"type": "string"} if media_type.startswith("text/") else {}}
    if content and not headless:
        response["content"] = content
    if answer.headers:
        response["headers"] = {
            name: {"description": HEADERS[name][0], "schema": HEADERS[name][1]} for name in answer.headers
        }
    return response


def _problems_by_status(path: str, item: Operation) -> dict[int, list[str]]:
    codes: list[str] = [*ALWAYS, *item.problems]
    if offered_media_types(item):
        codes.append("not_acceptable")
    if "{" in path:
        codes.append("not_found")
    if item.body is not None or item.other_bodies:
        codes += WITH_BODY
    if item.body is not None:
        codes += WITH_JSON
    return _grouped(dict.fromkeys(codes))


def _grouped(codes: Iterable[str]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        grouped[PROBLEMS[code].status].append(code)
    return grouped
