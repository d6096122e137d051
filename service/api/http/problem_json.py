"""Every error as `application/problem+json` (RFC 9457): ours, werkzeug's, and unexpected exceptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import structlog
from flask import Flask, Response, g, request
from pydantic import Field
from werkzeug.exceptions import ClientDisconnected, HTTPException

from gradinspect.contracts.document import Document
from gradinspect.contracts.problems import PROBLEMS, FieldError, ProblemError
from service.api.http.every_request import request_id
from service.db.engine import UNAVAILABLE

MEDIA_TYPE = "application/problem+json"
LONGEST_INSTANCE = 512  # chosen: long enough for every path of ours, short enough for a log line
RETRY_DATABASE_SECONDS = 5  # chosen: a restart of PostgreSQL or a long write on SQLite

# The code for werkzeug's own errors of each status.
_CODE_OF_STATUS = {
    400: "bad_request",
    403: "cross_origin",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    421: "host_not_allowed",
    422: "invalid_request",
    429: "too_many_requests",
    503: "unavailable",
}

_log = structlog.get_logger(__name__)


class ProblemFieldError(Document):
    """One wrong field of the request."""

    pointer: str = Field(description="JSON pointer into the body; `/query/…`, `/path/…`, `/headers/…` outside of it.")
    detail: str


class ProblemDocument(Document):
    """RFC 9457, with `code`, `hint`, `request_id` and `errors` as extension members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    hint: str
    request_id: str
    errors: tuple[ProblemFieldError, ...] = ()


def register_problems(app: Flask) -> None:
    """Answer every exception that leaves a view with a problem document."""
    app.register_error_handler(ProblemError, _answer_problem)
    app.register_error_handler(HTTPException, _answer_http_exception)
    for error in UNAVAILABLE:
        app.register_error_handler(error, _answer_database_away)
    app.register_error_handler(Exception, _answer_unexpected)


def type_of(code: str) -> str:
    """Return the `type` of a problem: an anchor in the documentation that explains it."""
    return f"/docs#problem-{code.replace('_', '-')}"


def problem_response(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Write one problem document.

    Args:
        code: a key of `PROBLEMS`.
        detail: what is wrong in this case.
        status: where it differs from the table's, as for rare statuses of werkzeug's.
        errors: the wrong fields.
        headers: such as Retry-After and Allow.
    """
    row = PROBLEMS[code]
    g.problem_code = code  # for the audit log
    document: dict[str, object] = {
        "type": type_of(code),
        "title": row.title,
        "status": status or row.status,
        "detail": detail,
        "instance": quote(request.path, safe="/:")[:LONGEST_INSTANCE],
        "code": code,
        "hint": row.hint,
        "request_id": request_id(),
    }
    if errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in errors]
    response = Response(json.dumps(document), status=status or row.status, mimetype=MEDIA_TYPE)
    response.headers.update(headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def _answer_problem(error: ProblemError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return problem_response(error.code, error.detail, errors=error.errors, headers=headers)


def _answer_http_exception(error: HTTPException) -> Response | HTTPException:
    status = error.code or 500
    if status < 400:
        return error  # redirects are answers
    if isinstance(error, ClientDisconnected):
        return problem_response("short_body", "the connection ended before the whole body had arrived")
    if status >= 500 and status not in _CODE_OF_STATUS:
        return _answer_unexpected(error)
    code = _CODE_OF_STATUS.get(status, "bad_request")
    kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return problem_response(code, _explain(error, status), status=status, headers=kept)


def _explain(error: HTTPException, status: int) -> str:
    if status == 404:
        return f"no resource has the path {request.path[:LONGEST_INSTANCE]}"
    if status == 405:
        return f"{request.method} is not among the methods of {request.path[:LONGEST_INSTANCE]}"
    if status == 413 and request.max_content_length is not None:
        return f"this path takes at most {request.max_content_length} bytes"
    return error.description or error.name


def _answer_database_away(error: Exception) -> Response:
    _log.error("database unavailable", exc_info=error)
    return problem_response(
        "unavailable", "the database does not answer", headers={"Retry-After": str(RETRY_DATABASE_SECONDS)}
    )


def _answer_unexpected(error: Exception) -> Response:
    _log.error("request failed", exc_info=error)
    return problem_response("internal", f"the request could not be answered; its id is {request_id()}")
