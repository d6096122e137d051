"""The progress of one inspection as server-sent events: one event for each change, and one for its end.

Each event carries the whole inspection, so a cut stream loses nothing: a client that reconnects with Last-Event-ID
receives the current state if it has changed since, else 204.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from time import monotonic, sleep

from apiflask import APIBlueprint
from flask import current_app, request
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.resources import ENDED, InspectionResource
from service.access.authentication import is_still_valid
from service.api.http.operations import Answer, operation
from service.api.http.waiting import pauses
from service.context import caller, context
from service.db import inspections
from service.resources import inspection_resource

EVENT_STREAM = "text/event-stream"
HEARTBEAT_SECONDS = 15.0  # chosen: proxies cut connections that say nothing for 30 to 60 s
LONGEST_STREAM_SECONDS = 900.0  # chosen: clients reconnect without a loss; frees the thread of a lost client
RETRY_MILLISECONDS = 1000

blueprint = APIBlueprint("events", __name__, tag="inspections")


@blueprint.get("/v1/inspections/<inspection_id>/events")
@operation(
    scope="read",
    headers=["Last-Event-ID"],
    answers=[
        Answer(200, "`progress` events until the one named `ended`; each holds the inspection.", other=[EVENT_STREAM]),
        Answer(204, "It has ended and Last-Event-ID says that this is known; do not reconnect."),
    ],
    problems=["too_many_requests"],
)
def stream_events(inspection_id: str) -> Response:
    """Follow one inspection."""
    look, slots = _looker(inspection_id), context().event_streams
    first, known = look(), request.headers.get("Last-Event-ID")
    if first.status in ENDED and known == event_id(first):
        return Response(status=204)
    if not slots.acquire():
        raise ProblemError("too_many_requests", "as many event streams are open as are taken at once", retry_after=5)
    response = Response(
        _events(first, look, known), mimetype=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )  # fmt: skip
    response.call_on_close(slots.release)
    return response


def event_id(resource: InspectionResource) -> str:
    """Return the id of an event: a digest of the inspection's state."""
    return sha256(resource.model_dump_json().encode()).hexdigest()[:16]


def _looker(inspection_id: str) -> Callable[[], InspectionResource]:
    """Return a function that reads the inspection, also after the view has returned."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # flask's own way to the object behind it
    asking = caller()

    def look() -> InspectionResource:
        with app.app_context(), context().database.read() as session:
            if not is_still_valid(asking, session):
                raise ProblemError("unauthenticated", "the key has ended")
            return inspection_resource(inspections.get(session, inspection_id, tenant=asking.tenant))

    return look


def _events(first: InspectionResource, look: Callable[[], InspectionResource], known: str | None) -> Iterator[str]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    state, spoken, started = first, monotonic(), monotonic()
    for pause in pauses():
        name = event_id(state)
        if name != known:
            yield _event(name, state)
            known, spoken = name, monotonic()
        if state.status in ENDED or monotonic() - started > LONGEST_STREAM_SECONDS:
            return
        if monotonic() - spoken > HEARTBEAT_SECONDS:
            yield ": still there\n\n"
            spoken = monotonic()
        sleep(pause)
        try:
            state = look()
        except ProblemError:
            return  # removed by retention while it was followed, or the key has ended


def _event(name: str, state: InspectionResource) -> str:
    kind = "ended" if state.status in ENDED else "progress"
    return f"id: {name}\nevent: {kind}\ndata: {state.model_dump_json()}\n\n"
