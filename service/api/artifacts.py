"""Artifacts: uploaded bytes, named by their SHA-256 and streamed to the store; concurrent uploads are limited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from apiflask import APIBlueprint
from flask import request
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.wire.resources import ArtifactResource
from service.access.guard import spend
from service.api.http.answers import json_answer
from service.api.http.bodies import PIECE_BYTES, arriving_bytes, declared_length
from service.api.http.forms import MULTIPART, receive_form
from service.api.http.operations import Answer, operation
from service.api.http.reading import JSON, best_of, require_content_type
from service.context import context, tenant
from service.db import artifacts, workers
from service.db.access import quotas
from service.db.ids import is_digest
from service.db.tables import ArtifactRecord
from service.lifecycle import artifacts as kept
from service.lifecycle.artifact_intake import keep_upload
from service.resources import artifact_resource

BYTES = "application/octet-stream"
RAW_TYPES = (BYTES, "application/zip", "application/x-zip-compressed", "application/vnd.safetensors")
RETRY_UPLOAD_SECONDS = 5  # chosen: the time in which an upload of a few megabytes ends
FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "contentMediaType": BYTES}},
    "required": ["file"],
    "additionalProperties": False,
}
STORED = [
    Answer(201, "The bytes are kept.", ArtifactResource, headers=["Location"]),
    Answer(200, "The same bytes were there already.", ArtifactResource, headers=["Location"]),
]
UPLOAD_PROBLEMS = [
    "length_required", "invalid_model", "unsupported_operator", "invalid_data", "quota_exceeded", "too_many_requests",
    "uploads_disabled", "disk_full",
]  # fmt: skip

blueprint = APIBlueprint("artifacts", __name__, tag="artifacts")


@blueprint.put("/v1/artifacts/<artifact_id>")
@operation(
    scope="submit",
    other_bodies={media_type: {} for media_type in RAW_TYPES},
    headers=["Content-Length"],
    answers=STORED,
    problems=["digest_mismatch", *UPLOAD_PROBLEMS],
)
def put_artifact(artifact_id: str) -> Response:
    """Upload raw bytes under their digest: a .pt2 or TorchScript file, or safetensors."""
    require_content_type(RAW_TYPES, absent_is=BYTES)
    length = declared_length(context().settings.max_upload_bytes)
    if not is_digest(artifact_id):
        detail = "is sha256: and the 64 lowercase hexadecimal digits of the body's SHA-256"
        raise ProblemError(
            "invalid_request", f"the name of an artifact {detail}", errors=[FieldError("/path/artifact_id", detail)]
        )
    with upload_slot():
        return _answer(*_keep(arriving_bytes(length), expected_digest=artifact_id, expected_length=length))


@blueprint.post("/v1/artifacts")
@operation(scope="submit", other_bodies={MULTIPART: FORM}, answers=STORED, problems=UPLOAD_PROBLEMS)
def upload_artifact() -> Response:
    """Upload a file of a form, as `curl -F file=@model.pt` does."""
    require_content_type([MULTIPART])
    with upload_slot():
        return _answer(*receive_form(context().settings.max_upload_bytes, _keep).file)


@blueprint.get("/v1/artifacts/<artifact_id>")
@operation(
    scope="read", answers=[Answer(200, "What is kept, or with that Accept the bytes.", ArtifactResource, other=[BYTES])]
)
def get_artifact(artifact_id: str) -> Response:
    """Return one artifact."""
    with context().database.read() as session:
        record = artifacts.get(session, artifact_id, tenant=tenant())
    return json_answer(artifact_resource(record)) if best_of([JSON, BYTES]) == JSON else _bytes_of(record)


@blueprint.delete("/v1/artifacts/<artifact_id>")
@operation(scope="submit", answers=[Answer(204, "The bytes are gone.")], problems=["in_use"])
def delete_artifact(artifact_id: str) -> Response:
    """Delete an artifact that nothing uses."""
    kept.delete(context().database, context().store, artifact_id, tenant=tenant())
    return Response(status=204)


@contextmanager
def upload_slot() -> Iterator[None]:
    """Hold one of the slots for uploads.

    Raises:
        ProblemError: `uploads_disabled`; `quota_exceeded`; `too_many_requests`, when no slot is free or the rate is
            exceeded; `length_required`, because an upload of unknown length could hold one for ever.
    """
    refuse_unconfined()
    size = declared_length(context().settings.max_upload_bytes)
    with context().database.read() as session:
        quotas.refuse_overflow(session, tenant=tenant(), added_bytes=size, limit=context().settings.max_stored_bytes)
    spend("uploads")
    spend("upload_bytes", size)
    with context().uploads.hold_if_free() as is_free:
        if not is_free:
            count = context().settings.max_concurrent_uploads
            detail = f"{count} uploads are in progress, the most at once"
            raise ProblemError("too_many_requests", detail, retry_after=RETRY_UPLOAD_SECONDS)
        yield


def refuse_unconfined() -> None:
    """Refuse uploads while a worker that may receive them cannot confine them.

    Raises:
        ProblemError: `uploads_disabled`.
    """
    with context().database.read() as session:
        status = workers.living(session)
    if status is not None and not status.takes_uploads:
        raise ProblemError("uploads_disabled", f"confinement is {status.confinement!r}: {status.reason}")


def _keep(
    pieces: Iterator[bytes], *, expected_digest: str | None = None, expected_length: int | None = None
) -> tuple[ArtifactRecord, bool]:
    here = context()
    return keep_upload(
        here.database, here.store, pieces, tenant=tenant(), limit=here.settings.max_upload_bytes,
        expected_digest=expected_digest, expected_length=expected_length,
    )  # fmt: skip


def _answer(record: ArtifactRecord, is_new: bool) -> Response:
    place = {"Location": f"/v1/artifacts/{record.id}"}
    return json_answer(artifact_resource(record), 201 if is_new else 200, place)


def _bytes_of(record: ArtifactRecord) -> Response:
    headers = {"Content-Length": str(record.size_bytes), "Content-Disposition": "attachment"}
    response = Response(mimetype=BYTES, headers=headers)
    if request.method != "HEAD":
        file = context().store.artifacts.open(record.id, tenant=record.tenant_id)
        response.response = _pieces(file)
        response.call_on_close(file.close)
    return response


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
