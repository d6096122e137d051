"""The declaration of an endpoint at its view: the request is parsed and the specification is written from it.

    @blueprint.get("/v1/models")
    @operation(scope="read", query=ModelQuery, answers=[Answer(200, "One page of models.", ModelPage)])
    def list_models(query: ModelQuery) -> Response: ...

APIFlask routes and names the operations. Its parsing is not used, because it accepts any content type as JSON, keeps
the last of duplicate keys and accepts NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from flask import Flask
from pydantic import BaseModel
from werkzeug.wrappers import Response

from service.access.requirements import Requirement, requires
from service.api.http.reading import JSON, best_of, read_json, read_query, refuse_query, require_content_type
from service.context import Scope
from service.query_strings import Query
from service.rates import Rate

Schema = dict[str, Any]  # Any: a JSON schema is JSON
View = TypeVar("View", bound=Callable[..., Response])


@dataclass(frozen=True)
class Answer:
    """A successful answer of an operation.

    Args:
        status: HTTP status.
        description: when this response is sent.
        body: the model of its JSON body; None for an answer without one, or with other content only.
        other: other media types that the same answer comes in.
        headers: names of headers worth knowing; `openapi.HEADERS` describes them.
    """

    status: int
    description: str
    body: type[BaseModel] | None = None
    other: Sequence[str] = ()
    headers: Sequence[str] = ()


@dataclass(frozen=True)
class Operation:
    """The declaration of one operation."""

    answers: Sequence[Answer]
    requirement: Requirement
    query: type[Query] | None = None
    body: type[BaseModel] | None = None
    other_bodies: Mapping[str, Schema] = field(default_factory=dict)
    headers: Sequence[str] = ()
    problems: Sequence[str] = ()
    example: object = None


def operation(
    *,
    scope: Scope | None,
    answers: Sequence[Answer],
    rate: Rate | None = None,
    query: type[Query] | None = None,
    body: type[BaseModel] | None = None,
    other_bodies: Mapping[str, Schema] | None = None,
    read_body: Callable[[Any], BaseModel] = read_json,
    headers: Sequence[str] = (),
    problems: Sequence[str] = (),
    example: object = None,
) -> Callable[[View], View]:
    """Parse a view's request and describe the operation.

    Args:
        scope: what the caller's key must allow; None lets anyone call.
        answers: the successful responses.
        rate: the limit that each request counts against.
        query: model of the query string, given to the view as `query`; without it every parameter is refused.
        body: model of the JSON body, given to the view as `body`.
        other_bodies: media types that the view reads by itself; `body` is then None.
        read_body: reads it, from the model; by default within the limit for everything that is no upload.
        headers: request headers that the operation reads.
        problems: codes of `PROBLEMS` specific to this operation.
        example: a JSON body that works.
    """
    described = Operation(
        answers, Requirement(scope, rate), query, body, other_bodies or {}, headers, problems, example
    )
    offered = offered_media_types(described)

    def decorate(view: View) -> View:
        @requires(scope, rate=rate)
        @wraps(view)
        def answer(**arguments: object) -> Response:
            if offered:
                best_of(offered)
            if query is None:
                refuse_query()
            else:
                arguments["query"] = read_query(query)
            if body is not None:
                taken = require_content_type(accepted_bodies(described))
                arguments["body"] = read_body(body) if taken == JSON else None
            return view(**arguments)

        answer.operation = described  # type: ignore[attr-defined]  # read back by `operations_of`
        return answer  # type: ignore[return-value]  # same call, parsed arguments added

    return decorate


class Route(NamedTuple):
    """The path and method of an operation as in a specification; `name` is its view's, `tag` its blueprint's."""

    path: str
    method: str
    name: str
    tag: str


def operations_of(app: Flask) -> Iterator[tuple[Route, Operation]]:
    """Yield every described operation with its route."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        described = getattr(view, "operation", None)
        if described is not None:
            path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
            tag = str(getattr(app.blueprints[rule.endpoint.rpartition(".")[0]], "tag", ""))
            for method in sorted((rule.methods or set()) - {"OPTIONS"}):
                yield Route(path, method.lower(), view.__name__, tag), described


def offered_media_types(described: Operation) -> list[str]:
    """Return the media types that an operation can answer with, the default first."""
    found: dict[str, None] = {}
    for answer in described.answers:
        found.update(dict.fromkeys([*([JSON] if answer.body is not None else []), *answer.other]))
    return list(found)


def accepted_bodies(described: Operation) -> list[str]:
    """Return the media types that an operation's body may have."""
    return [*([JSON] if described.body is not None else []), *described.other_bodies]
