"""Inspections: submit, list, read, cancel, delete. Their results are in `reports`, their events in `events`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import request
from pydantic import Field
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.wire.resources import (
    InspectionResource,
    Page,
)
from service.api.http.answers import conditional, json_answer
from service.api.http.idempotency_keys import idempotency_key
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.api.http.waiting import LONGEST_WAIT_SECONDS, wait_for
from service.context import context, tenant
from service.db import inspections
from service.db.lists import queries
from service.db.lists.queries import InspectionListQuery
from service.db.tables import InspectionRecord
from service.lifecycle import deletion
from service.lifecycle.submission import publish, submit
from service.query_strings import Query
from service.resources import inspection_resource

RETRY_SECONDS = "1"  # chosen: a small inspection takes a fraction of this
EXAMPLE: dict[str, Any] = {  # Any: JSON
    "model": {"spec": {"input": {"shape": [784]}, "layers": [
        {"repeat": 9, "layers": [{"type": "Linear", "out_features": 256}, {"type": "Sigmoid"}]},
        {"type": "Linear", "out_features": 10},
    ]}},
    "loss": "cross_entropy",
    "labels": {"team": "vision"},
}  # fmt: skip
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)

blueprint = APIBlueprint("inspections", __name__, tag="inspections")


class WaitQuery(Query):
    """How long to wait for the end."""

    wait: Annotated[
        float, Field(ge=0, le=LONGEST_WAIT_SECONDS, allow_inf_nan=False, description="Seconds to wait for the end.")
    ] = 0


@blueprint.post("/v1/inspections")
@operation(scope="submit", rate="submissions",
    body=InspectionRequest,
    headers=["Idempotency-Key", "Prefer"],
    answers=[
        Answer(
            202, "Accepted: it is queued, or running.", InspectionResource,
            headers=["Location", "Retry-After", "Preference-Applied", "Idempotency-Replayed"],
        ),
        Answer(
            200, "It has ended within the wait.", InspectionResource,
            headers=["Location", "Preference-Applied", "Idempotency-Replayed"],
        ),
    ],
    problems=[
        "invalid_spec", "invalid_data", "idempotency_in_progress", "idempotency_mismatch", "too_many_inspections",
    ],
    example=EXAMPLE,
)  # fmt: skip
def submit_inspection(body: InspectionRequest) -> Response:
    """Inspect a model. `{"model": "mdl_…"}` is a complete request."""
    here = context()
    record, is_new = submit(here.database, here.store, here.settings, body, tenant=tenant(), key=idempotency_key())
    if is_new:
        publish(here.database, here.dispatcher, here.settings, record)
    seconds = _preferred_wait()
    record = _read_after(record.id, seconds) if seconds is not None else record
    headers = {"Location": f"/v1/inspections/{record.id}"} | _retry_after(record)
    headers |= {"Preference-Applied": f"wait={seconds}"} if seconds is not None else {}
    headers |= {} if is_new else {"Idempotency-Replayed": "true"}
    return json_answer(inspection_resource(record), 200 if inspections.has_ended(record) else 202, headers)


@blueprint.get("/v1/inspections")
@operation(
    scope="read",
    query=InspectionListQuery,
    answers=[Answer(200, "One page of inspections, newest first.", Page[InspectionResource], headers=["Link"])],
)
def list_inspections(query: InspectionListQuery) -> Response:
    """List inspections, newest first."""
    with context().database.read() as session:
        found = queries.inspections(session, query, tenant=tenant())
    items = [inspection_resource(record) for record in found.items]
    return page_answer(Page[InspectionResource](items=items, next_cursor=found.next_cursor), found.next_cursor)


@blueprint.get("/v1/inspections/<inspection_id>")
@operation(
    scope="read",
    query=WaitQuery,
    headers=["If-None-Match"],
    answers=[
        Answer(200, "The inspection as it is now.", InspectionResource, headers=["ETag", "Retry-After"]),
        Answer(304, "It is still as it was at that ETag."),
    ],
)
def get_inspection(inspection_id: str, query: WaitQuery) -> Response:
    """Return one inspection: status and progress, and after success verdict and summary."""
    record = _read_after(inspection_id, query.wait)
    return conditional(json_answer(inspection_resource(record), headers=_retry_after(record)))


@blueprint.delete("/v1/inspections/<inspection_id>")
@operation(scope="submit", answers=[Answer(204, "It is gone, with its report and rows.")], problems=["not_finished"])
def delete_inspection(inspection_id: str) -> Response:
    """Delete an inspection that has ended. Cancel one that is queued or running first."""
    here = context()
    deletion.delete_inspection(here.database, here.store, inspection_id, tenant=tenant())
    return Response(status=204)


@blueprint.post("/v1/inspections/<inspection_id>/cancel")
@operation(
    scope="submit",
    answers=[
        Answer(200, "It was queued, or had been cancelled before.", InspectionResource),
        Answer(202, "It was running: its computation is being killed.", InspectionResource),
    ],
    problems=["already_ended"],
)
def cancel_inspection(inspection_id: str) -> Response:
    """Cancel an inspection for good."""
    with context().database.write() as session:
        outcome = inspections.cancel(session, inspection_id, tenant=tenant())
    record = _read(inspection_id)
    if outcome == "ended":
        raise ProblemError("already_ended", f"it has ended: {record.status}")
    return json_answer(inspection_resource(record), 202 if outcome == "cancelling" else 200)


def _read(inspection_id: str) -> InspectionRecord:
    with context().database.read() as session:
        return inspections.get(session, inspection_id, tenant=tenant())


def _read_after(inspection_id: str, seconds: float) -> InspectionRecord:
    """Read an inspection, waiting for its end as long as asked, if a slot for waiting is free."""
    return wait_for(
        lambda: _read(inspection_id), until=inspections.has_ended, seconds=seconds, slots=context().long_polls
    )


def _retry_after(record: InspectionRecord) -> dict[str, str]:
    return {} if inspections.has_ended(record) else {"Retry-After": RETRY_SECONDS}


def _preferred_wait() -> int | None:
    """Return the seconds of `wait` in the Prefer header, at most 30; None when there is no readable one."""
    match = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    return min(int(match[1]), LONGEST_WAIT_SECONDS) if match is not None else None
