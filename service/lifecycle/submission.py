"""Submission of an inspection: its row in one transaction, then, after the commit, the message to the workers."""

from __future__ import annotations

from typing import cast

import structlog
from sqlalchemy.orm import Session

from gradinspect.contracts.document import from_python
from gradinspect.contracts.field_errors import pointer as json_pointer
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.fitting import NO_PARAMETERS, misfit
from gradinspect.contracts.request.request import InlineModel, InspectionRequest
from gradinspect.contracts.sources import SpecSource
from service.db import idempotency, inspections, models, outbox, policies
from service.db.engine import Database
from service.db.tables import InspectionRecord, ModelRecord
from service.lifecycle.artifact_intake import check_data
from service.lifecycle.dispatch import BrokerUnavailable, Dispatcher
from service.lifecycle.references import named_at
from service.settings import Queue, Settings
from service.store.storage import Store

_log = structlog.get_logger(__name__)


def submit(
    database: Database, store: Store, settings: Settings, request: InspectionRequest, *, tenant: str, key: str | None
) -> tuple[InspectionRecord, bool]:
    """Accept an inspection; return its row and whether this call created it.

    Args:
        database: holds the row.
        store: holds the data that the request names.
        settings: limits and queues.
        request: validated.
        tenant: owner of the inspection.
        key: an Idempotency-Key; the same key with the same request returns the same inspection.

    Raises:
        ProblemError: the request, the key or the state of the queue does not allow it; nothing was changed.
    """
    if isinstance(request.data, ArtifactData):
        with named_at("/data/artifact"):
            check_data(database, store, request.data, tenant=tenant)
    with database.write() as session:
        if key is not None:
            digest = idempotency.request_digest("POST", "/v1/inspections", request.model_dump_json())
            first = idempotency.reserve(session, key, digest, tenant=tenant, hours=settings.idempotency_hours)
            if first is not None:
                with named_at("/headers/Idempotency-Key"):  # it may be deleted while its key is remembered
                    return inspections.get(session, first, tenant=tenant), False
        record = _insert(session, settings, request, tenant)
        if key is not None:
            idempotency.complete(session, key, record.id, tenant=tenant)
        return record, True


def publish(database: Database, dispatcher: Dispatcher, settings: Settings, record: InspectionRecord) -> None:
    """Publish an inspection to the workers; while the broker is down, the maintainer does so later."""
    try:
        dispatcher.send(record.id, queue=cast("Queue", record.queue))
    except BrokerUnavailable as error:
        _log.warning("inspection not published yet", inspection=record.id, error=str(error))
        return
    with database.write() as session:
        outbox.mark_dispatched(session, record.id, redispatch_seconds=settings.redispatch_seconds)


def _insert(session: Session, settings: Settings, request: InspectionRequest, tenant: str) -> InspectionRecord:
    if not isinstance(request.model, str):
        with named_at(f"/model/{request.model.source.kind}"):
            model = models.register_inline(session, request.model.source, tenant=tenant, name=request.model.name)
    else:
        with named_at("/model"):
            model = models.hold(session, request.model, tenant=tenant)
    if not model.is_here:
        detail = "reports of this model were pushed, the model was not; inspect it where it is, or register it here"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/model", detail)])
    _refuse_misfit(request, model)
    with named_at("/policy"):
        policy = policies.resolve(session, request.policy, tenant=tenant)
    with named_at("/data/artifact"):  # it may have been deleted since the check above
        return inspections.insert(
            session,
            request,
            tenant=tenant,
            model=model,
            policy=policy,
            queue=settings.queue_for(request.device, is_upload=model.file is not None),
            max_queued=settings.max_queued,
        )


def _refuse_misfit(request: InspectionRequest, model: ModelRecord) -> None:
    """Refuse what no run could use now, rather than by a failed inspection."""
    inputs = request.data.inputs if request.data is not None else None
    if model.kind == "torchscript" and model.input is None and inputs is None:
        raise _misfit("/data", "this model was registered without `input`, so bring data.inputs")
    if model.document is not None and model.parameters == 0:
        raise _misfit("/model", NO_PARAMETERS)
    if isinstance(request.model, InlineModel):
        return  # the request was compared with its own spec when it was read
    if model.document is not None and request.data is not None:
        spec = from_python(SpecSource, model.source(), code="invalid_spec").spec
        if (problem := misfit(spec, request.data, loss=request.loss)) is not None:
            raise _misfit(json_pointer(["data", *problem[0]]), problem[1])


def _misfit(pointer: str, detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail, errors=[FieldError(pointer, detail)])
