"""Layers and parameters as rows, across all inspections: "which models have a layer with …"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from apiflask import APIBlueprint
from werkzeug.wrappers import Response

from gradinspect.contracts.wire.resources import LayerRow, Page, ParameterRow
from service.api import tables
from service.api.http.answers import link_next
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.api.http.reading import JSON, best_of
from service.context import context, tenant
from service.db import inspections
from service.db.lists import row_queries
from service.db.lists.row_filters import RowQuery

CSV = "text/csv"
RowT = TypeVar("RowT", LayerRow, ParameterRow)

blueprint = APIBlueprint("rows", __name__, tag="rows")


@blueprint.get("/v1/layers")
@operation(
    scope="read",
    rate="report_reads",
    query=row_queries.LayerQuery,
    answers=[Answer(200, "One page of layer calls.", Page[LayerRow], other=[CSV], headers=["Link"])],
)
def list_layers(query: RowQuery) -> Response:
    """List the layer calls of all inspections. Every number is a filter: `backward_gain__lt=0.1`."""
    return answer_rows(LayerRow, row_queries.layers, query)


@blueprint.get("/v1/parameters")
@operation(
    scope="read",
    rate="report_reads",
    query=row_queries.ParameterQuery,
    answers=[Answer(200, "One page of parameters.", Page[ParameterRow], other=[CSV], headers=["Link"])],
)
def list_parameters(query: RowQuery) -> Response:
    """List the parameters of all inspections. Every number is a filter: `grad_norm__lt=1e-7`."""
    return answer_rows(ParameterRow, row_queries.parameters, query)


def answer_rows(
    resource: type[RowT], read_page: Callable[..., Page[RowT]], query: RowQuery, *, inspection: str | None = None
) -> Response:
    """Answer one page of rows, as JSON or CSV.

    Args:
        read_page: `row_queries.layers` or `row_queries.parameters`.
        inspection: restricts the list to this inspection.
    """
    with context().database.read() as session:
        page = read_page(session, query, tenant=tenant(), inspection=inspection)
        owners = {row.inspection for row in page.items}
        measured_by = inspections.measured_by(session, owners, tenant=tenant())
    items = [row.model_copy(update={"measured_by": measured_by[row.inspection]}) for row in page.items]
    wanted = query.format or best_of([JSON, CSV]).rpartition("/")[2]
    if wanted == "json":
        return page_answer(Page[resource](items=items, next_cursor=page.next_cursor), page.next_cursor)  # type: ignore[valid-type]  # a class at run time
    text = tables.layers(items) if resource is LayerRow else tables.parameters(items)
    return Response(text, mimetype=CSV, headers=link_next(page.next_cursor))
