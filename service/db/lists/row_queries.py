"""Lists of layers and parameters, of one inspection or of all: filtered and sorted by any number they hold.

Without `sort`, the rows of one inspection come in the report's order. Across inspections they come by the first indexed
number that they are filtered by, else by inspection, newest first and from the loss back to the input. Rows without a
value for the sorted field come last. Numbers without an index can be filtered and sorted by too; across inspections
that reads rows until a page is full.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, RowMapping, select
from sqlalchemy.orm import Session

from gradinspect.contracts.wire.resources import LayerRow, Page, ParameterRow
from service.db.lists import cursors
from service.db.lists.row_filters import Comparison, RowQuery, row_query
from service.db.lists.row_orders import ByNumber, ByPosition, NewestFirst, Order, unindexed
from service.db.results import flattening
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
_COLUMNS = {"model": "model_id", "inspection": "inspection_id"}


@dataclass(frozen=True)
class RowKind(Generic[RowT]):
    """One kind of row: its table, its fields, and the fields that have an index across inspections."""

    record: type[LayerRecord | ParameterRecord]
    shape: Shape
    resource: type[RowT]
    indexed: frozenset[str]


LAYERS = RowKind(LayerRecord, flattening.LAYERS, LayerRow, frozenset(INDEXED_LAYER_FIELDS))
PARAMETERS = RowKind(ParameterRecord, flattening.PARAMETERS, ParameterRow, frozenset(INDEXED_PARAMETER_FIELDS))

_LAYER_TEXTS = ("name", "kind", "nonlinearity", "model")
_PARAMETER_TEXTS = ("name", "layer", "dtype", "status", "model")
# The rows of one inspection have no filter by inspection.
LayerQuery = row_query("LayerQuery", flattening.LAYERS, (*_LAYER_TEXTS, "inspection"))
ParameterQuery = row_query("ParameterQuery", flattening.PARAMETERS, (*_PARAMETER_TEXTS, "inspection"))
InspectionLayerQuery = row_query("InspectionLayerQuery", flattening.LAYERS, _LAYER_TEXTS)
InspectionParameterQuery = row_query("InspectionParameterQuery", flattening.PARAMETERS, _PARAMETER_TEXTS)


def layers(session: Session, query: RowQuery, *, tenant: str, inspection: str | None = None) -> Page[LayerRow]:
    """Read a page of layer calls.

    Args:
        query: a `LayerQuery`, or an `InspectionLayerQuery` for one inspection.
        inspection: restricts the list to this inspection.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    return _page(session, LAYERS, query, tenant, inspection)


def parameters(session: Session, query: RowQuery, *, tenant: str, inspection: str | None = None) -> Page[ParameterRow]:
    """Read a page of parameter tensors, as `layers` does for layer calls."""
    return _page(session, PARAMETERS, query, tenant, inspection)


def _page(session: Session, kind: RowKind[RowT], query: RowQuery, tenant: str, inspection: str | None) -> Page[RowT]:
    table = kind.record.__table__.c
    numbers, texts = list(query.number_filters()), query.text_filters()
    bound_to = cursors.binding(session, kind.record.__tablename__, tenant, inspection, numbers, texts, query.sort)
    rows = select(*(column for column in table if column is not table.tenant_id)).where(table.tenant_id == tenant)
    if inspection is not None:
        rows = rows.where(table.inspection_id == inspection)
    for number in numbers:
        column = table[number.field] if inspection is None else unindexed(table[number.field])
        rows = rows.where(_COMPARE[number.comparison](column, number.value))
    for name, text in texts.items():
        rows = rows.where(table[_COLUMNS.get(name, name)] == text)
    order = _order(kind, query, inspection)
    after = None if query.cursor is None else cursors.decode(query.cursor, bound_to, order.kinds)
    found = order.fetch(session, rows, after, query.limit + 1)
    items = [_resource(kind, row) for row in found[: query.limit]]
    if len(found) <= query.limit:
        return Page(items=items, next_cursor=None)
    return Page(items=items, next_cursor=cursors.encode(bound_to, order.keys(found[query.limit - 1])))


def _order(kind: RowKind[RowT], query: RowQuery, inspection: str | None) -> Order:
    table = kind.record.__table__.c
    filtered = [number.field for number in query.number_filters()]
    sort = query.sort
    if sort is None and inspection is None:
        # The index that finds the rows gives their order too; any other order would have to read them all first.
        sort = next((field for field in filtered if field in kind.indexed), None)
    if sort is None:
        return ByPosition(table) if inspection is not None else NewestFirst(table)
    field = sort.removeprefix("-")
    return ByNumber(
        table, field, is_descending=sort.startswith("-"), is_one_inspection=inspection is not None,
        may_be_null=field not in filtered,
    )  # fmt: skip


def _resource(kind: RowKind[RowT], row: RowMapping) -> RowT:
    document = kind.shape.unflatten(dict(row))
    document["inspection"] = row["inspection_id"]
    document["model"] = row["model_id"]
    return kind.resource.model_validate(document, strict=False)
