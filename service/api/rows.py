"""Layers and parameters as rows, across all inspections: "which models have a layer with …"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from apiflask import APIBlueprint
from pydantic import Field, create_model
from pydantic.config import JsonValue
from werkzeug.wrappers import Response

from gradinspect.contracts.wire.resources import LayerRow, Page, ParameterRow
from service.api import tables
from service.api.http.answers import link_next
from service.api.http.operations import Answer, operation
from service.api.http.paging import PageQuery, as_given, page_answer
from service.api.http.reading import FILTER_MARK, JSON, best_of, fields_of_query
from service.context import context, tenant
from service.db.lists import row_queries
from service.db.lists.filters import COMPARISONS
from service.db.lists.row_queries import Noun

CSV = "text/csv"
RowT = TypeVar("RowT", LayerRow, ParameterRow)

blueprint = APIBlueprint("rows", __name__, tag="rows")


class RowQuery(PageQuery):
    """What every list of rows takes."""

    sort: Annotated[
        str | None, Field(max_length=64, description="A number of the rows; `-` before it for the largest first.")
    ] = None
    format: Annotated[Literal["json", "csv"] | None, Field(description="The same as Accept, for links.")] = None


def _query_of(noun: Noun[RowT], name: str) -> type[RowQuery]:
    """The query of one kind of row: its texts, and every number, alone and with each comparison."""
    mark: dict[str, JsonValue] = {FILTER_MARK: True}
    text = (Annotated[str | None, Field(max_length=256, description="Rows with this very text.")], None)
    number = (Annotated[float | None, Field(json_schema_extra=mark)], None)
    fields: dict[str, Any] = dict.fromkeys(noun.texts, text)  # Any: pydantic's definitions of fields
    for column in sorted(noun.shape.numbers):
        fields[column] = number
        fields |= {f"{column}__{comparison}": number for comparison in COMPARISONS}
    return create_model(name, __base__=RowQuery, **fields)


LayerQuery = _query_of(row_queries.LAYERS, "LayerQuery")
ParameterQuery = _query_of(row_queries.PARAMETERS, "ParameterQuery")


@blueprint.get("/v1/layers")
@operation(
    query=LayerQuery,
    answers=[Answer(200, "One page of layer calls.", Page[LayerRow], other=[CSV], headers=["Link"])],
)
def list_layers(query: RowQuery) -> Response:
    """Layer calls of all inspections. Every number is a filter: `backward_gain__lt=0.1`."""
    return answer_rows(LayerRow, row_queries.layers, query)


@blueprint.get("/v1/parameters")
@operation(
    query=ParameterQuery,
    answers=[Answer(200, "One page of parameters.", Page[ParameterRow], other=[CSV], headers=["Link"])],
)
def list_parameters(query: RowQuery) -> Response:
    """Parameters of all inspections. Every number is a filter: `grad_norm__lt=1e-7`."""
    return answer_rows(ParameterRow, row_queries.parameters, query)


def answer_rows(
    resource: type[RowT], look_up: Callable[..., Page[RowT]], query: RowQuery, *, inspection: str | None = None
) -> Response:
    """One page of rows, as JSON or CSV.

    Args:
        look_up: `row_queries.layers` or `row_queries.parameters`.
        inspection: of this inspection alone.
    """
    with fields_of_query(), context().database.read() as session:
        page = look_up(session, as_given(query), tenant=tenant(), inspection=inspection)
    if (query.format or _wanted()) == "json":
        return page_answer(Page[resource](items=page.items, next_cursor=page.next_cursor), page.next_cursor)  # type: ignore[valid-type]  # a class at run time
    text = tables.layers(page.items) if resource is LayerRow else tables.parameters(page.items)
    return Response(text, mimetype=CSV, headers=link_next(page.next_cursor))


def _wanted() -> str:
    return best_of([JSON, CSV]).rpartition("/")[2]
