"""Answers: JSON from contracts, conditional answers, links to the next page."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from flask import request
from pydantic import BaseModel
from werkzeug.wrappers import Response

JSON = "application/json"


def json_answer(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write a contract as JSON."""
    return Response(body.model_dump_json(), status=status, headers=headers, mimetype=JSON)


def conditional(response: Response) -> Response:
    """Add an ETag to a complete answer, and make it 304 without a body when the caller has that version."""
    response.add_etag()
    response.headers["Cache-Control"] = "no-cache"
    return response.make_conditional(request.environ)


def is_known_to_caller(response: Response) -> bool:
    """Make an answer with an ETag 304 when the caller has that version; returns True when no body is needed."""
    response.make_conditional(request.environ)
    return response.status_code == 304


def link_next(cursor: str | None) -> dict[str, str]:
    """Return the Link header to the next page; empty on the last page."""
    if cursor is None:
        return {}
    kept = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
    return {"Link": f'<{request.path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}
