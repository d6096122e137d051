"""The pages of training runs: the list at `/runs`, a run at `/runs/{id}`."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import request
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.runs import RunSeries
from gradinspect.report.charts.run_charts import first_layer_signal, numbers_over_steps, signal_over_time
from service.access.requirements import requires
from service.context import context, tenant
from service.db import runs
from service.db.lists import overviews, queries
from service.db.lists.queries import RunListQuery
from service.lifecycle.run_series import read_series, run_resource
from service.query_strings import validate_query
from service.web.pages import show_problem
from service.web.rendering import page

PAGE_SIZE = 25
MOST_ROWS = 200  # beyond it a page is slow to read; the API has all

blueprint = APIBlueprint("run_pages", __name__, enable_openapi=False)
blueprint.register_error_handler(ProblemError, show_problem)


@blueprint.get("/runs")
@requires("read")
def show_runs() -> Response:
    """List the runs, newest first."""
    cursor = request.args.get("cursor") or None
    query = validate_query(RunListQuery, {"limit": PAGE_SIZE, "cursor": cursor})
    with context().database.read() as session:
        found = queries.runs(session, query, tenant=tenant())
        progress = runs.progress(session, [record.id for record in found.items], tenant=tenant())
        at = overviews.now(session)
    rows = [run_resource(record, progress[record.id]) for record in found.items]
    return page(
        "runs.html", page="runs", rows=rows, now=at, is_later_page=cursor is not None, next_cursor=found.next_cursor,
        is_active=any(row.end is None for row in rows), base_url=request.url_root.rstrip("/"),
    )  # fmt: skip


@blueprint.get("/runs/<run_id>")
@requires("read")
def show_run(run_id: str) -> Response:
    """Show one run: loss and gradients over steps, the signal against depth over time, findings as they appear."""
    with context().database.read() as session:
        run = read_series(session, run_id, tenant=tenant())
        at = overviews.now(session)
    return page(
        "run.html", page="runs", run=run, now=at, is_active=run.end is None, rows=_rows(run),
        left_out=max(len(run.points) - MOST_ROWS, 0),
        steps_chart=numbers_over_steps(run, described_by="steps-table") if run.points else None,
        signal_chart=signal_over_time(run.signals, described_by="steps-table") if run.signals.depths else None,
    )  # fmt: skip


def _rows(run: RunSeries) -> list[tuple[object, float | None]]:
    """Return the newest steps first, each with the share of the signal that arrives at the first layer call."""
    arrives = dict(zip(run.signals.steps, first_layer_signal(run.signals), strict=True))
    return [(point, arrives.get(point.step)) for point in reversed(run.points[-MOST_ROWS:])]
