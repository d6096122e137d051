"""Lists of inspections and models, newest first, page by page; a page costs the same however far in it lies.

Lists of layers and parameters are in `row_queries`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar, get_args

from sqlalchemy import ColumnElement, Select, exists, literal, select, tuple_
from sqlalchemy.orm import Session

from gradinspect.contracts.report.report import Verdict
from gradinspect.contracts.wire.resources import Status
from service.db.lists import cursors, filters
from service.db.lists.filters import Params
from service.db.results.tables import FindingRecord
from service.db.tables import InspectionRecord, LabelRecord, ModelRecord

INSPECTION_FILTERS = ("status", "verdict", "model", "label", "rule", "created_after", "created_before")
_PAGING = ("cursor", "limit")

ItemT = TypeVar("ItemT")
_Dated = TypeVar("_Dated", InspectionRecord, ModelRecord)


@dataclass(frozen=True)
class Listing(Generic[ItemT]):
    """One page; `next_cursor` is None on the last."""

    items: Sequence[ItemT]
    next_cursor: str | None


def inspections(session: Session, params: Params, *, tenant: str) -> Listing[InspectionRecord]:
    """A page of inspections, newest first.

    Args:
        params: query parameters as they came: `INSPECTION_FILTERS`, `cursor`, `limit`. `label` is `key=value`,
            `key:value` or `key` and may be repeated: an inspection has them all. Times are exclusive.

    Raises:
        ProblemError: `invalid_request`, naming the parameter.
    """
    given = filters.single_values(params, (*INSPECTION_FILTERS, *_PAGING), repeatable=("label",))
    query = select(InspectionRecord).where(InspectionRecord.tenant_id == tenant, InspectionRecord.deleted_at.is_(None))
    for name in INSPECTION_FILTERS:
        for value in given.get(name, ()):
            query = query.where(_condition(name, value, tenant))
    asked = {name: given[name] for name in INSPECTION_FILTERS if name in given}
    return _page(session, query, InspectionRecord, given, cursors.binding("inspections", tenant, asked))


def models(session: Session, params: Params, *, tenant: str) -> Listing[ModelRecord]:
    """A page of models, newest first.

    Args:
        params: query parameters as they came: `cursor`, `limit`.

    Raises:
        ProblemError: `invalid_request`, naming the parameter.
    """
    given = filters.single_values(params, _PAGING)
    query = select(ModelRecord).where(ModelRecord.tenant_id == tenant, ModelRecord.deleted_at.is_(None))
    return _page(session, query, ModelRecord, given, cursors.binding("models", tenant))


def _condition(name: str, value: str, tenant: str) -> ColumnElement[bool]:
    match name:
        case "status":
            return InspectionRecord.status == filters.one_of(name, value, get_args(Status))
        case "verdict":
            return InspectionRecord.verdict == filters.one_of(name, value, get_args(Verdict))
        case "model":
            return InspectionRecord.model_id == value
        case "label":
            return _has_label(value, tenant)
        case "rule":
            fired = FindingRecord.inspection_id == InspectionRecord.id
            return exists().where(fired, FindingRecord.tenant_id == tenant, FindingRecord.rule == value)
        case "created_after":
            return InspectionRecord.created_at > filters.moment(name, value)
        case "created_before":
            return InspectionRecord.created_at < filters.moment(name, value)
    raise AssertionError(name)


def _has_label(text: str, tenant: str) -> ColumnElement[bool]:
    key, *value = re.split("[=:]", text, maxsplit=1)  # no key has either
    labelled = select(LabelRecord.inspection_id).where(LabelRecord.tenant_id == tenant, LabelRecord.key == key)
    return InspectionRecord.id.in_(labelled.where(LabelRecord.value == value[0]) if value else labelled)


def _page(
    session: Session, query: Select[_Dated], record: type[_Dated], given: dict[str, list[str]], bound_to: str
) -> Listing[_Dated]:
    limit = cursors.page_limit(given.get("limit", [None])[0])
    for cursor in given.get("cursor", ()):
        created_at, last_id = cursors.decode(cursor, bound_to, [(datetime,), (str,)])
        ended = tuple_(literal(created_at, record.created_at.type), literal(last_id, record.id.type))
        query = query.where(tuple_(record.created_at, record.id) < ended)
    query = query.order_by(record.created_at.desc(), record.id.desc()).limit(limit + 1)
    found = session.scalars(query).all()
    if len(found) <= limit:
        return Listing(found, None)
    last = found[limit - 1]
    return Listing(found[:limit], cursors.encode(bound_to, [last.created_at, last.id]))
