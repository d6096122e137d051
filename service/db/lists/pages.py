"""Pages of rows that have an id and a time: newest first, each page at the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import Session

from service.db.lists import cursors
from service.db.tables import Table
from service.query_strings import PageQuery

ItemT = TypeVar("ItemT")
DatedT = TypeVar("DatedT", bound=Table)


@dataclass(frozen=True)
class Listing(Generic[ItemT]):
    """One page; `next_cursor` is None on the last."""

    items: Sequence[ItemT]
    next_cursor: str | None


def page_of(
    session: Session, rows: Select[Any], record: type[DatedT], query: PageQuery, tenant: str
) -> Listing[DatedT]:
    """Read one page, newest first.

    Args:
        session: to read with.
        rows: the rows of the list, of this tenant alone.
        record: their table, which has the columns `id` and `created_at`.
        query: its cursor continues a list with the same filters.
        tenant: for which the cursor is valid.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    at, key = record.__table__.c["created_at"], record.__table__.c["id"]
    filters = query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_defaults=True)
    bound_to = cursors.binding(session, record.__tablename__, tenant, filters)
    if query.cursor is not None:
        created_at, last_id = cursors.decode(query.cursor, bound_to, [(datetime,), (str,)])
        end = tuple_(literal(created_at, at.type), literal(last_id, key.type))
        rows = rows.where(tuple_(at, key) < end)
    rows = rows.order_by(at.desc(), key.desc()).limit(query.limit + 1)
    found = session.scalars(rows).all()
    if len(found) <= query.limit:
        return Listing(found, None)
    last: Any = found[query.limit - 1]
    return Listing(found[: query.limit], cursors.encode(bound_to, [last.created_at, last.id]))
