"""Pages of a list as answers."""

from __future__ import annotations

from pydantic import BaseModel
from werkzeug.wrappers import Response

from service.api.http.answers import json_answer, link_next


def page_answer(page: BaseModel, next_cursor: str | None) -> Response:
    """Write one page, with a Link header to the next one."""
    return json_answer(page, headers=link_next(next_cursor))
