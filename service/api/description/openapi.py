"""The OpenAPI 3.1 specification, made from the operations that views declare.

APIFlask lists the paths, names and tags; what goes in and out of each is filled in here from `operations`.
`python -m service.openapi_document > openapi.json` writes the file that is kept in the repository.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from re import findall
from typing import Any

from apiflask import APIFlask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gradinspect.contracts.problems import PROBLEMS
from gradinspect.contracts.request.request import MODEL_ID
from gradinspect.contracts.wire.pushes import RUN_ID
from service.api.description.compact import (
    compact,
    extend,
    flatten_union,
    inherit,
    merge_variants,
    open_up,
    reachable,
    rename,
    share,
)
from service.api.http.operations import Answer, Operation, Schema, offered_media_types, operations_of
from service.api.http.problem_json import MEDIA_TYPE, ProblemDocument
from service.api.http.reading import JSON
from service.db.lists.row_filters import COMPARISONS, RowQuery
from service.query_strings import FILTER_MARK, PageQuery

COMPONENT = "#/components/schemas/{model}"
SERVERS = [{"url": "/", "description": "The service that this document comes from."}]
SECURITY_SCHEMES: dict[str, Schema] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "gi_<id>_<secret>",
        "description": "A key. On loopback none is needed, unless the service requires them. Each operation names the "
        "scope that it needs.",
    }
}
LICENSE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
CONTACT = {"name": "The maintainers of gradinspect"}

# Problems of every operation, and those of operations with a body or an id in the path.
ALWAYS = ("bad_request", "invalid_request")
SERVER_ERRORS = ("internal", "unavailable")  # described as 5XX
# Statuses that nearly every operation has, described once as 4XX where no code is the operation's own.
COMMON_STATUSES = frozenset({400, 401, 403, 406, 413, 415})
WITH_BODY = ("short_body", "too_large", "unsupported_media_type")
WITH_JSON = ("malformed_json",)
WITH_KEY = ("unauthenticated", "missing_scope")

# Rows of lists, each with the part of a report that it extends.
ROW_BASES = {"LayerRow": "LayerMeasurement", "ParameterRow": "ParameterMeasurement"}

# Parts that many schemas repeat, each with the path to one example.
LAYER_UNION = {"LayerEntry": ("Residual", "properties", "layers", "items")}
PRESETS = ("MlpPreset", "CnnPreset", "ResnetPreset", "RnnPreset", "TransformerPreset")
SHARED_PARTS = {
    "LayerName": ("Linear", "properties", "tie"),
    "SpecOrPreset": ("InlineModel", "properties", "spec"),
    "SizePerAxis": ("Conv", "properties", "kernel_size"),
    "MarginPerAxis": ("ConvTranspose", "properties", "padding"),
    "Size": ("Linear", "properties", "out_features"),
}

PATH_PARAMETERS: dict[str, Schema] = {
    "artifact_id": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    "model_id": {"type": "string", "pattern": MODEL_ID.pattern},
    "inspection_id": {"type": "string", "pattern": "^insp_[0-9a-f-]{36}$"},
    "run_id": {"type": "string", "pattern": RUN_ID},
    "key_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "policy_id": {"type": "string", "pattern": "^(default|pol_[0-9a-f-]{36})$"},
}
REQUEST_HEADERS: dict[str, tuple[str, Schema]] = {
    "Idempotency-Key": (
        "A key of the caller's making: the same key with the same body gives the same inspection.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
    "If-None-Match": ("An ETag seen before; 304 while it still holds.", {"type": "string"}),
    "Last-Event-ID": ("Id of the last event received; the stream continues after it.", {"type": "string"}),
    "Prefer": ("`wait=N` waits up to N ≤ 30 seconds for the end (RFC 7240).", {"type": "string"}),
}
RESPONSE_HEADERS: dict[str, tuple[str, Schema]] = {
    "ETag": ("Changes whenever the answer does.", {"type": "string"}),
    "Idempotency-Replayed": (
        "`true` when a request with this Idempotency-Key made the inspection before.",
        {"type": "string"},
    ),
    "Link": ('The next page, `rel="next"`.', {"type": "string"}),
    "Location": ("The path of the resource.", {"type": "string"}),
    "Preference-Applied": ("The preference that was followed.", {"type": "string"}),
    "RateLimit": ('What is left of the nearest limit, `"name";r=remaining;t=seconds`.', {"type": "string"}),
    "Retry-After": ("Seconds after which to ask again.", {"type": "integer", "minimum": 0}),
}


def complete_specification(app: APIFlask, skeleton: dict[str, Any]) -> dict[str, Any]:
    """Fill in what APIFlask's skeleton leaves open."""
    skeleton["info"] |= {"license": LICENSE, "contact": CONTACT}
    skeleton |= {"servers": SERVERS, "security": [{"key": []}]}
    # HEAD is GET without the body: the description of the API states it once.
    described = [(route, item) for route, item in operations_of(app) if route.method != "head"]
    schemas, names = _schemas([item for _, item in described])
    components = skeleton["components"] = {
        "schemas": schemas,
        "parameters": _shared_parameters(),
        "headers": {name: {"description": text, "schema": schema} for name, (text, schema) in RESPONSE_HEADERS.items()},
        "responses": _problem_responses(names),
        "securitySchemes": SECURITY_SCHEMES,
    }
    paths: dict[str, dict[str, Schema]] = defaultdict(dict)
    for (path, method, view, tag), item in described:
        heading = skeleton["paths"][path][method]
        text = "\n\n".join(heading[key] for key in ("summary", "description") if key in heading)
        entry: Schema = {"summary": view.replace("_", " ").capitalize(), "description": text}
        entry |= {"tags": [tag], "operationId": view, "security": _security(item)}
        entry["parameters"] = [*_path_parameters(path), *_query_parameters(item, components), *_header_parameters(item)]
        if item.body is not None or item.other_bodies:
            entry["requestBody"] = {"required": True, "content": _request_content(item, names)}
        entry["responses"] = _responses(path, item, names)
        paths[path][method] = entry
    skeleton["paths"] = {path: paths[path] for path in sorted(paths)}
    used = str(skeleton["paths"])
    for name in list(components["responses"]):
        if f"responses/{name}'" not in used:
            del components["responses"][name]
    _share_parts(skeleton)
    return skeleton


def _schemas(described: Sequence[Operation]) -> tuple[dict[str, Schema], dict[type[BaseModel], str]]:
    """Return the schemas of all bodies by name, and the name of each body's model."""
    models: dict[type[BaseModel], None] = {ProblemDocument: None}
    for item in described:
        bodies = [item.body, *(answer.body for answer in item.answers)]
        models.update({model: None for model in bodies if model is not None})
    references, definitions = models_json_schema([(model, "validation") for model in models], ref_template=COMPONENT)
    schemas = {name: compact(schema) for name, schema in definitions["$defs"].items()}
    names = {model: references[model, "validation"]["$ref"].rpartition("/")[2] for model in models}
    return schemas, names


def _reference(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema_reference(model: type[BaseModel], names: dict[type[BaseModel], str]) -> Schema:
    return _reference("schemas", names[model])


def _path_parameters(path: str) -> list[Schema]:
    return [_reference("parameters", name) for name in findall(r"{([^}]+)}", path)]


def _query_parameters(item: Operation, components: Schema) -> list[Schema]:
    if item.query is None:
        return []
    parameters: list[Schema] = []
    for name, schema in compact(item.query.model_json_schema(ref_template=COMPONENT))["properties"].items():
        if FILTER_MARK in schema:
            continue
        described = {"description": schema.pop("description")} if "description" in schema else {}
        parameter = {"name": name, "in": "query", **described, "schema": _without_null(schema)}
        if name in PageQuery.model_fields or name == "sort":
            components["parameters"][name] = parameter
            parameter = _reference("parameters", name)
        parameters.append(parameter)
    if issubclass(item.query, RowQuery):
        # The rows of one inspection and of all inspections have the same number filters.
        name = f"{item.query.__name__.removeprefix('Inspection').removesuffix('Query')}Filters"
        components["schemas"][name] = _number_filters(item.query)
        schema = _reference("schemas", name)
        parameters.append({"name": "filters", "in": "query", "style": "form", "explode": True, "schema": schema})
    return parameters


def _number_filters(query: type[RowQuery]) -> Schema:
    numbers = sorted(query.numbers)
    return {
        "type": "object",
        "description": "Each key is a query parameter of its own, such as `grad_norm__lt=1e-7`: a number of the rows, "
        f"alone or with `__` and one of {', '.join(COMPARISONS)}. The numbers: {', '.join(numbers)}.",
        "propertyNames": {"pattern": f"^({'|'.join(numbers)})(__({'|'.join(COMPARISONS)}))?$"},
        "additionalProperties": {"type": "number"},
    }


def _without_null(schema: Schema) -> Schema:
    """Return a schema without null: a query parameter is left out, never null."""
    if isinstance(schema.get("type"), list):
        schema["type"] = schema["type"][0]
    if None in schema.get("enum", []):
        schema["enum"].remove(None)
    return schema


def _header_parameters(item: Operation) -> list[Schema]:
    # OpenAPI describes Accept by media types, and Content-Length belongs to the transport.
    return [_reference("parameters", name) for name in item.headers if name not in ("Accept", "Content-Length")]


def _shared_parameters() -> dict[str, Schema]:
    """Return the parameters in paths and headers, by name."""
    in_paths = {
        name: {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in PATH_PARAMETERS.items()
    }
    in_headers = {
        name: {"name": name, "in": "header", "description": text, "schema": schema}
        for name, (text, schema) in REQUEST_HEADERS.items()
    }
    return in_paths | in_headers


def _security(item: Operation) -> list[dict[str, list[str]]]:
    """Return the scope that an operation needs; the empty alternative is loopback, where no key is needed."""
    scope = item.requirement.scope
    return [] if scope is None else [{"key": [scope]}, {}]


def _request_content(item: Operation, names: dict[type[BaseModel], str]) -> Schema:
    content: Schema = {}
    if item.body is not None:
        content[JSON] = {"schema": _schema_reference(item.body, names)}
        if item.example is not None:
            content[JSON]["example"] = item.example
    return content | {media_type: {"schema": schema} for media_type, schema in item.other_bodies.items()}


def _responses(path: str, item: Operation, names: dict[type[BaseModel], str]) -> Schema:
    responses: Schema = {str(answer.status): _response(answer, names) for answer in item.answers}
    for status, codes in sorted(_problems_by_status(path, item).items()):
        if status in COMMON_STATUSES and not set(codes) & set(item.problems):
            continue
        response = _reference("responses", _response_name(status))
        if set(codes) & set(item.problems):
            response["description"] = ", ".join(f"`{code}`" for code in codes)
        responses.setdefault(str(status), response)
    return responses | {
        "4XX": _reference("responses", "ClientError"), "5XX": _reference("responses", "ServerError"),
    }  # fmt: skip


def _response(answer: Answer, names: dict[type[BaseModel], str]) -> Schema:
    response: Schema = {"description": answer.description}
    content: Schema = {}
    if answer.body is not None:
        content[JSON] = {"schema": _schema_reference(answer.body, names)}
    for media_type in answer.other:
        content[media_type] = {"schema": {"type": "string"} if media_type.startswith("text/") else {}}
    if content:
        response["content"] = content
    if answer.headers:
        response["headers"] = {name: _reference("headers", name) for name in answer.headers}
    return response


def _problem_responses(names: dict[type[BaseModel], str]) -> dict[str, Schema]:
    """Return one response per status of a problem; an operation lists the codes that it can end in."""
    content = {MEDIA_TYPE: {"schema": _schema_reference(ProblemDocument, names)}}
    common = [code for code, row in PROBLEMS.items() if row.status in COMMON_STATUSES]
    named = {_response_name(status): codes for status, codes in sorted(_grouped(PROBLEMS).items())}
    return {
        name: {"description": "\n".join(f"- `{code}`: {PROBLEMS[code].title}." for code in codes), "content": content}
        for name, codes in (named | {"ClientError": common, "ServerError": list(SERVER_ERRORS)}).items()
    }


def _response_name(status: int) -> str:
    """Return the name of the shared response of a status, such as NotFound."""
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def _problems_by_status(path: str, item: Operation) -> dict[int, list[str]]:
    codes: list[str] = [*ALWAYS, *item.problems]
    if item.requirement.scope is not None:
        codes += WITH_KEY
    if item.requirement.rate is not None:
        codes.append("too_many_requests")
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


def _share_parts(document: Schema) -> None:
    """Describe once what many schemas repeat."""
    schemas = document["components"]["schemas"]
    sent = [
        [entry.get("requestBody"), entry["parameters"]]
        for methods in document["paths"].values()
        for entry in methods.values()
    ]
    open_up(schemas, set(schemas) - reachable(sent, schemas) - set(ROW_BASES))
    for row, base in ROW_BASES.items():
        schemas[base].pop("additionalProperties", None)  # else a row could not extend it
        extend(schemas, row, base)
    share(document, LAYER_UNION)
    union = schemas["LayerEntry"]
    flatten_union(union)
    named = [one["$ref"].rpartition("/")[2] for one in union["oneOf"]]
    layers = [name for name in named if "type" in schemas[name]["properties"]]
    renamed = merge_variants(schemas, layers)
    rename(document, renamed)
    inherit(schemas, dict.fromkeys(renamed.get(name, name) for name in layers), "Layer", ("name", "frozen", "init"))
    inherit(schemas, PRESETS, "Preset", ("input", "num_classes", "init"))
    share(document, SHARED_PARTS)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
