"""Requests to the service: each ends in a typed answer or in an exception of `client.errors`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from gradinspect.client.errors import ServiceUnreachable, UnexpectedAnswer, problem_of
from gradinspect.contracts.problems import PROBLEMS, FieldError
from gradinspect.contracts.wire.resources import Page

ModelT = TypeVar("ModelT", bound=BaseModel)
Query = Mapping[str, str | int | float | bool | list[str] | None]
PROBLEM = "application/problem+json"
EVENT_TIMEOUT = httpx.Timeout(30.0, read=60.0)  # the service sends a comment every 15 s


class Calls:
    """Requests through one `httpx.Client`."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def read(self, model: type[ModelT], method: str, path: str, **request: Any) -> ModelT:  # Any: httpx's arguments
        """Send a request whose answer is one document.

        Raises:
            GradinspectError: the request fails.
        """
        return parsed(model, self.send(method, path, **request))

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:  # Any: httpx's arguments
        """Send a request and return its complete answer; raise for every other ending."""
        if (query := request.pop("query", None)) is not None:
            request["params"] = {name: value for name, value in query.items() if value is not None}
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServiceUnreachable(str(self._http.base_url), _reason(error)) from error
        if response.is_success:
            return response
        raise _problem(response)

    def events(self, path: str, last_id: str | None) -> Iterator[tuple[str, str]]:
        """Yield the id and data of each server-sent event until the stream ends or the connection breaks."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id is not None else {})
        try:
            with self._http.stream("GET", path, headers=headers, timeout=EVENT_TIMEOUT) as response:
                if not response.is_success:
                    response.read()
                    raise _problem(response)
                name = ""
                for line in response.iter_lines():
                    field, _, value = line.partition(":")
                    if field == "id":
                        name = value.strip()
                    elif field == "data":
                        yield name, value.strip()
        except (httpx.RemoteProtocolError, httpx.ReadError):
            return  # connection lost: a new request with the last id continues the stream
        except httpx.TransportError as error:
            raise ServiceUnreachable(str(self._http.base_url), _reason(error)) from error

    def pages(self, model: type[ModelT], path: str, query: Query) -> Iterator[ModelT]:
        """Yield every item of a list; request each page when it is needed."""
        cursor: str | None = None
        while True:
            page = self.read(Page[model], "GET", path, query={**query, "cursor": cursor})  # type: ignore[valid-type]  # a class at run time
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


def parsed_text(model: type[ModelT], text: str) -> ModelT:
    """Parse a document inside a stream; as `parsed`."""
    return model.model_validate_json(text, extra="ignore")


def parsed(model: type[ModelT], response: httpx.Response) -> ModelT:
    """Parse an answer; ignore fields that a newer service adds.

    Raises:
        UnexpectedAnswer: it is not a document of this class.
    """
    try:
        return model.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "/".join(map(str, first["loc"]))
        reason = f"not a {model.__name__}: {path}: {first['msg']}"
        raise UnexpectedAnswer(str(response.request.url), response.status_code, reason) from None


def _problem(response: httpx.Response) -> Exception:
    url, status = str(response.request.url), response.status_code
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind == PROBLEM and response.request.method == "HEAD":  # an answer to HEAD has no body
        code = next((code for code, row in PROBLEMS.items() if row.status == status), "bad_request")
        return problem_of(code, status, PROBLEMS[code].title)
    try:
        document = response.json() if kind == PROBLEM else None
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return UnexpectedAnswer(url, status, f"{kind or 'no content type'}, {len(response.content)} bytes")
    detail, hint, request_id = (str(document.get(name) or "") for name in ("detail", "hint", "request_id"))
    errors = _field_errors(document.get("errors"))
    return problem_of(document["code"], status, detail, errors=errors, hint=hint, request_id=request_id)


def _field_errors(raw: object) -> list[FieldError]:
    rows: Iterable[object] = raw if isinstance(raw, list) else ()
    return [
        FieldError(str(row.get("pointer", "")), str(row.get("detail", ""))) for row in rows if isinstance(row, dict)
    ]


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
