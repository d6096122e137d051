"""Training runs: a series of pushed reports, each with its step."""

from __future__ import annotations

from apiflask import APIBlueprint
from werkzeug.wrappers import Response

from gradinspect.contracts.wire.resources import Page
from gradinspect.contracts.wire.runs import RunEnd, RunRequest, RunResource, RunSeries
from service.api.http.answers import conditional, json_answer
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.context import context, tenant
from service.db import runs
from service.db.lists import queries
from service.db.lists.queries import RunListQuery
from service.lifecycle.run_series import read_series, run_resource

blueprint = APIBlueprint("runs", __name__, tag="runs")


@blueprint.post("/v1/runs")
@operation(
    scope="submit",
    body=RunRequest,
    answers=[Answer(201, "The run takes reports.", RunResource, headers=["Location"])],
    example={"name": "resnet, warm-up 500", "every": 100},
)
def create_run(body: RunRequest) -> Response:
    """Begin a run. `POST /v1/reports` with `run` and `step` adds its steps."""
    with context().database.write() as session:
        record = runs.insert(session, body, tenant=tenant())
        progress = runs.progress(session, [record.id], tenant=tenant())[record.id]
    return json_answer(run_resource(record, progress), 201, {"Location": f"/v1/runs/{record.id}"})


@blueprint.get("/v1/runs")
@operation(
    scope="read",
    query=RunListQuery,
    answers=[Answer(200, "One page of runs, newest first.", Page[RunResource], headers=["Link"])],
)
def list_runs(query: RunListQuery) -> Response:
    """List runs, newest first."""
    with context().database.read() as session:
        found = queries.runs(session, query, tenant=tenant())
        progress = runs.progress(session, [record.id for record in found.items], tenant=tenant())
    items = [run_resource(record, progress[record.id]) for record in found.items]
    return page_answer(Page[RunResource](items=items, next_cursor=found.next_cursor), found.next_cursor)


@blueprint.get("/v1/runs/<run_id>")
@operation(
    scope="read",
    headers=["If-None-Match"],
    answers=[
        Answer(200, "The run with its series.", RunSeries, headers=["ETag"]),
        Answer(304, "It is still as it was at that ETag."),
    ],
)
def get_run(run_id: str) -> Response:
    """Return a run: loss, gradient norms, findings and the backward signal over its steps."""
    with context().database.read() as session:
        series = read_series(session, run_id, tenant=tenant())
    return conditional(json_answer(series))


@blueprint.post("/v1/runs/<run_id>/end")
@operation(
    scope="submit",
    body=RunEnd,
    answers=[Answer(200, "The run takes no more reports.", RunResource)],
    problems=["conflict"],
    example={"outcome": "stopped", "step": 400, "rule": "non_finite"},
)
def end_run(run_id: str, body: RunEnd) -> Response:
    """End a run, and record how."""
    with context().database.write() as session:
        record = runs.end(session, run_id, body, tenant=tenant())
        progress = runs.progress(session, [run_id], tenant=tenant())[run_id]
    return json_answer(run_resource(record, progress))


@blueprint.delete("/v1/runs/<run_id>")
@operation(scope="submit", answers=[Answer(204, "It is gone, with the inspections that are its steps.")])
def delete_run(run_id: str) -> Response:
    """Delete a run and its inspections."""
    with context().database.write() as session:
        runs.delete(session, run_id, tenant=tenant())
    return Response(status=204)
