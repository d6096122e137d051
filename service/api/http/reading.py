"""Reading a request: content types, strict JSON bodies, query strings. Invalid input raises a `ProblemError`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from flask import request
from pydantic import BaseModel
from werkzeug.datastructures import MultiDict

from gradinspect.contracts.document import from_request
from gradinspect.contracts.problems import FieldError, ProblemError
from service.api.http.bodies import arriving_bytes, declared_length
from service.context import context
from service.query_strings import QueryT, unknown_parameter, validate_query, wrong_query

JSON = "application/json"

ModelT = TypeVar("ModelT", bound=BaseModel)


def require_content_type(accepted: Sequence[str], *, absent_is: str | None = None) -> str:
    """Return the request's media type, without parameters.

    Args:
        accepted: media types that the path takes.
        absent_is: the type assumed for a request without a Content-Type; None refuses it.

    Raises:
        ProblemError: `unsupported_media_type`, naming what the path takes.
    """
    given = request.mimetype or absent_is
    charset = request.mimetype_params.get("charset", "utf-8")
    if given not in accepted or charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        seen = f"Content-Type is {request.content_type[:128]!r}" if request.content_type else "Content-Type is missing"
        raise ProblemError("unsupported_media_type", f"{seen}; send {' or '.join(accepted)}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError("unsupported_media_type", "Content-Encoding is not taken; send the bytes as they are")
    return str(given)


def read_json(model: type[ModelT]) -> ModelT:
    """Read the body as strict JSON into `model`.

    Raises:
        ProblemError: what is wrong with the size, the JSON or its fields.
    """
    return validate_json(model, read_body(context().settings.max_spec_body_bytes))


def read_body(limit: int) -> bytes:
    """Read the whole body, which is not empty.

    Raises:
        ProblemError: `too_large` over `limit` bytes, `short_body`, `malformed_json` where there is none.
    """
    if request.content_length is not None:
        declared_length(limit)
    body = b"".join(arriving_bytes(limit))
    if not body:
        raise ProblemError("malformed_json", "the body is empty; send one JSON object")
    return body


def validate_json(model: type[ModelT], body: bytes) -> ModelT:
    """Validate a JSON body; the code is `invalid_spec` when only its spec is wrong."""
    try:
        return from_request(model, body)
    except ProblemError as problem:
        if problem.errors and all("/spec" in f"{error.pointer}/" for error in problem.errors):
            raise ProblemError("invalid_spec", problem.detail, errors=problem.errors) from None
        raise


def read_query(model: type[QueryT]) -> QueryT:
    """Read the query string into `model`, refusing names it does not know.

    Raises:
        ProblemError: `invalid_request` with pointers such as `/query/limit`.
    """
    _refuse_undecodable()
    repeatable = {name for name, field in model.model_fields.items() if _takes_list(field.annotation)}
    return validate_query(model, _flatten(request.args, repeatable))


def best_of(offered: Sequence[str]) -> str:
    """Return the media type to answer with, the first one when the caller has no preference.

    Raises:
        ProblemError: `not_acceptable`, naming the available types.
    """
    wanted = request.headers.get("Accept", "*/*")
    if wanted in ("*/*", offered[0]):
        return offered[0]
    chosen = request.accept_mimetypes.best_match(offered)
    if chosen is None:
        raise ProblemError("not_acceptable", f"Accept is {wanted[:128]!r}; this path answers {' or '.join(offered)}")
    return chosen


def wrong_header(name: str, detail: str) -> ProblemError:
    """Build the 422 for one invalid header."""
    return ProblemError(
        "invalid_request", f"the header {name} {detail}", errors=[FieldError(f"/headers/{name}", detail)]
    )


def refuse_query() -> None:
    """Refuse every query parameter, for paths that have none."""
    for name in request.args if request.query_string else ():
        raise wrong_query(name, unknown_parameter(()))


def _flatten(arguments: MultiDict[str, str], repeatable: Collection[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in arguments:
        given = arguments.getlist(name)
        if name in repeatable:
            values[name] = given
        elif len(given) == 1:
            values[name] = given[0]
        else:
            raise wrong_query(name, "is given more than once; give it once")
    return values


def _refuse_undecodable() -> None:
    """Refuse bytes that are not UTF-8, which werkzeug would replace silently."""
    if b"%" not in request.query_string:
        return
    try:
        unquote_to_bytes(request.query_string).decode()
    except UnicodeDecodeError:
        raise ProblemError("bad_request", "the query string is not UTF-8 once its %XX are decoded") from None


def _takes_list(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) in (list, tuple)
