"""Lists of layers and parameters, of one inspection or of all: filtered and sorted by any number they hold.

Without `sort`, the rows of one inspection come in the report's order; across inspections they come by the first number
they are filtered by that has an index, and else by inspection, newest first and from the loss back to the input. Rows
without a value for the sorted field come last. Other numbers can be filtered and sorted by too; across inspections that
reads rows until a page is full.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, RowMapping, select
from sqlalchemy.orm import Session

from gradinspect.contracts.wire.resources import LayerRow, Page, ParameterRow
from service.db.lists import cursors
from service.db.lists.filters import Comparison, Params, RowFilters, row_filters
from service.db.lists.row_orders import ByNumber, ByPosition, NewestFirst, Order
from service.db.results import flattening as rows
from service.db.results.flattening import Shape
from service.db.results.tables import INDEXED_LAYER_FIELDS, INDEXED_PARAMETER_FIELDS, LayerRecord, ParameterRecord

RowT = TypeVar("RowT", LayerRow, ParameterRow)

_COMPARE: Mapping[Comparison, Callable[[Any, Any], ColumnElement[bool]]] = {  # Any: a column and a number
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
}


@dataclass(frozen=True)
class Noun(Generic[RowT]):
    """One kind of row: where it lies and what it can be asked for."""

    record: type[LayerRecord | ParameterRecord]
    shape: Shape
    resource: type[RowT]
    texts: tuple[str, ...]
    indexed: frozenset[str]


LAYERS = Noun(
    LayerRecord,
    rows.LAYERS,
    LayerRow,
    ("name", "kind", "nonlinearity", "model", "inspection"),
    frozenset(INDEXED_LAYER_FIELDS),
)
PARAMETERS = Noun(
    ParameterRecord,
    rows.PARAMETERS,
    ParameterRow,
    ("name", "layer", "dtype", "status", "model", "inspection"),
    frozenset(INDEXED_PARAMETER_FIELDS),
)


def layers(session: Session, params: Params, *, tenant: str, inspection: str | None = None) -> Page[LayerRow]:
    """A page of layer calls.

    Args:
        params: query parameters as they came: any number of the row, alone or with `__lt __lte __gt __gte __eq`;
            `name kind nonlinearity model inspection` by equality; `sort`, `-` before it for descending; `cursor limit`.
        inspection: of this inspection alone.

    Raises:
        ProblemError: `invalid_request`, naming the parameter.
    """
    return _page(session, LAYERS, params, tenant, inspection)


def parameters(session: Session, params: Params, *, tenant: str, inspection: str | None = None) -> Page[ParameterRow]:
    """A page of parameter tensors; as `layers`, with `name layer dtype status model inspection` by equality."""
    return _page(session, PARAMETERS, params, tenant, inspection)


def _page(session: Session, noun: Noun[RowT], params: Params, tenant: str, inspection: str | None) -> Page[RowT]:
    asked = _asked(noun, params, inspection)
    limit = cursors.page_limit(asked.limit)
    bound_to = cursors.binding(noun.record.__tablename__, tenant, inspection, replace(asked, cursor=None, limit=None))
    table = noun.record.__table__.c
    query = select(*(column for column in table if column is not table.tenant_id)).where(table.tenant_id == tenant)
    if inspection is not None:
        query = query.where(table.inspection_id == inspection)
    for condition in _conditions(noun, asked):
        query = query.where(condition)
    order = _order(noun, asked, inspection)
    after = None if asked.cursor is None else cursors.decode(asked.cursor, bound_to, order.kinds)
    found = order.fetch(session, query, after, limit + 1)
    items = [_resource(noun, row) for row in found[:limit]]
    is_last = len(found) <= limit
    return Page(items=items, next_cursor=None if is_last else cursors.encode(bound_to, order.keys(found[limit - 1])))


def _asked(noun: Noun[RowT], params: Params, inspection: str | None) -> RowFilters:
    texts = noun.texts if inspection is None else tuple(text for text in noun.texts if text != "inspection")
    asked = row_filters(params, numbers=noun.shape.numbers, texts=texts)
    if inspection is None and asked.sort is None:
        # The index that finds the rows gives their order too; any other order would have to read them all first.
        return replace(asked, sort=next((n.field for n in asked.numbers if n.field in noun.indexed), None))
    return asked


_COLUMNS = {"model": "model_id", "inspection": "inspection_id"}


def _conditions(noun: Noun[RowT], asked: RowFilters) -> Iterator[ColumnElement[bool]]:
    table = noun.record.__table__.c
    for number in asked.numbers:
        yield _COMPARE[number.comparison](table[number.field], number.value)
    for name, text in asked.texts:
        yield table[_COLUMNS.get(name, name)] == text


def _order(noun: Noun[RowT], asked: RowFilters, inspection: str | None) -> Order:
    table = noun.record.__table__.c
    if asked.sort is not None:
        is_filtered = any(number.field == asked.sort for number in asked.numbers)
        return ByNumber(table, asked.sort, asked.is_descending, inspection is not None, may_be_null=not is_filtered)
    return ByPosition(table) if inspection is not None else NewestFirst(table)


def _resource(noun: Noun[RowT], row: RowMapping) -> RowT:
    document = noun.shape.unflatten(dict(row))
    document["inspection"] = row["inspection_id"]
    document["model"] = row["model_id"]
    return noun.resource.model_validate(document, strict=False)
