"""Lists: the parameters that all of them take, and pages as answers."""

from __future__ import annotations

from typing import Annotated

from flask import request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.wrappers import Response

from service.api.http.answers import json_answer, link_next
from service.db.lists.cursors import DEFAULT_LIMIT, MAX_CHARACTERS, MAX_LIMIT
from service.db.lists.filters import Params

Cursor = Annotated[
    str | None, Field(max_length=MAX_CHARACTERS, description="`next_cursor` of the page before this one.")
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description=f"Items a page; {DEFAULT_LIMIT} when left out.")]


class Query(BaseModel):
    """A query string. Texts are read into what the fields are; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    """What every list takes."""

    cursor: Cursor = None
    limit: Limit = DEFAULT_LIMIT


def as_given(query: Query) -> Params:
    """The parameters of a list as they came; the form of the answer is not the list's affair."""
    listed = query.model_fields_set - {"format"}
    return [(name, value) for name, value in request.args.items(multi=True) if name in listed]


def page_answer(page: BaseModel, next_cursor: str | None) -> Response:
    """Write one page, with the way to the next one."""
    return json_answer(page, headers=link_next(next_cursor))
