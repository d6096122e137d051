"""Comparisons of two inspections."""

from __future__ import annotations

from typing import Annotated

from apiflask import APIBlueprint
from pydantic import Field
from werkzeug.wrappers import Response

from gradinspect.contracts.report.comparison import Comparison
from gradinspect.rules.compare import compare
from service.api.http.answers import conditional, json_answer
from service.api.http.operations import Answer, operation
from service.api.reports import NO_REPORT
from service.context import context, tenant
from service.db import policies
from service.lifecycle.references import named_at
from service.lifecycle.reports import read_report
from service.query_strings import Query

InspectionId = Annotated[str, Field(pattern=r"^insp_[0-9a-f-]{36}$", description="Id of an inspection with a report.")]

blueprint = APIBlueprint("comparisons", __name__, tag="reports")


class ComparisonQuery(Query):
    """The two inspections to compare."""

    base: InspectionId
    head: InspectionId
    policy: Annotated[
        str | None,
        Field(
            min_length=1, max_length=64, description="Judge both by this policy first: its id or name, or `default`."
        ),
    ] = None


@blueprint.get("/v1/comparisons")
@operation(
    scope="read",
    rate="report_reads",
    query=ComparisonQuery,
    headers=["If-None-Match"],
    answers=[
        Answer(200, "What changed from base to head.", Comparison, headers=["ETag"]),
        Answer(304, "The comparison is still the one with that ETag."),
    ],
    problems=["not_found", *NO_REPORT],
)
def get_comparison(query: ComparisonQuery) -> Response:
    """Compare two inspections: findings new, fixed and still there, rules better and worse, layers one by one."""
    policy = None
    if query.policy is not None:
        with named_at("/query/policy"), context().database.read() as session:
            policy = policies.resolve(session, query.policy, tenant=tenant())
    base, head = (
        read_report(context().database, context().store, inspection_id, tenant=tenant())
        for inspection_id in (query.base, query.head)
    )
    return conditional(json_answer(compare(base, head, policy=policy)))
