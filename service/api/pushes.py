"""Reports that clients measured where the model is: pushed here, judged here, and stored like all others."""

from __future__ import annotations

from apiflask import APIBlueprint
from werkzeug.wrappers import Response

from gradinspect.contracts.document import from_json
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.wire.pushes import ReportPush
from gradinspect.contracts.wire.resources import InspectionResource
from service.api.http.answers import json_answer
from service.api.http.idempotency_keys import idempotency_key
from service.api.http.operations import Answer, operation
from service.api.http.reading import read_body
from service.context import context, tenant
from service.lifecycle.pushes import accept
from service.resources import inspection_resource

_NO_REPORT = FieldError("/report", "required field; add it")
RETRY_SECONDS = 5  # chosen: the time in which a report of ordinary size is read

blueprint = APIBlueprint("pushes", __name__, tag="reports")


def read_push(model: type[ReportPush]) -> ReportPush:
    """Read a pushed report, which may be large, while a slot for uploads is free.

    Raises:
        ProblemError: `too_many_requests`; what is wrong with the body.
    """
    here = context()
    with here.uploads.hold_if_free() as is_free:
        if not is_free:
            detail = f"{here.settings.max_concurrent_uploads} uploads are in progress, the most at once"
            raise ProblemError("too_many_requests", detail, retry_after=RETRY_SECONDS)
        body = read_body(here.settings.max_report_body_bytes)
        try:
            return from_json(model, body)
        except ProblemError as problem:
            if not any(error == _NO_REPORT for error in problem.errors) or b'"environment"' not in body:
                raise
        return _bare_report(model, body)


def _bare_report(model: type[ReportPush], body: bytes) -> ReportPush:
    """Read a report that is the whole body; wrong fields are named as they are in it."""
    try:
        return from_json(model, b'{"report":' + body + b"}")
    except ProblemError as problem:
        errors = [FieldError(error.pointer.removeprefix("/report"), error.detail) for error in problem.errors]
        raise ProblemError(problem.code, problem.detail, errors=errors) from None


@blueprint.post("/v1/reports")
@operation(scope="submit", rate="submissions",
    body=ReportPush,
    read_body=read_push,
    headers=["Idempotency-Key"],
    answers=[
        Answer(201, "It is stored, as an inspection that succeeded.", InspectionResource, headers=["Location"]),
        Answer(
            200, "It was stored before, by a request with this Idempotency-Key.", InspectionResource,
            headers=["Location", "Idempotency-Replayed"],
        ),
    ],
    problems=[
        "conflict", "idempotency_in_progress", "idempotency_mismatch", "too_many_requests", "disk_full",
    ],
)  # fmt: skip
def push_report(body: ReportPush) -> Response:
    """Store a report that was measured elsewhere. Its numbers are judged again; `measured_by` is `client`.

    A report alone, as `gradinspect inspect --json` writes it, is a complete body too.
    """
    here = context()
    record, is_new = accept(
        here.database, here.store, here.settings, body, tenant=tenant(), key=idempotency_key()
    )  # fmt: skip
    headers = {"Location": f"/v1/inspections/{record.id}"} | ({} if is_new else {"Idempotency-Replayed": "true"})
    return json_answer(inspection_resource(record), 201 if is_new else 200, headers)
