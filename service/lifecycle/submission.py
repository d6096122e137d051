"""The beginning of an inspection: its row in one transaction, and after the commit the doorbell."""

from __future__ import annotations

from typing import cast

import structlog
from sqlalchemy.orm import Session

from gradinspect.contracts.document import from_python
from gradinspect.contracts.field_errors import pointer
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
    """Accept an inspection; returns its row, and whether this call made it.

    Args:
        key: an Idempotency-Key: the same key with the same request gives the same inspection.

    Raises:
        ProblemError: what is wrong with the request, the key or the state of the queue; then nothing was changed.
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


def ring(database: Database, dispatcher: Dispatcher, settings: Settings, record: InspectionRecord) -> None:
    """Tell the workers. A broker that is down costs about a second: the maintainer publishes what is still due."""
    try:
        dispatcher.send(record.id, queue=cast("Queue", record.queue))
    except BrokerUnavailable as error:
        _log.warning("inspection not published yet", inspection=record.id, error=str(error))
        return
    with database.write() as session:
        outbox.mark_dispatched(session, record.id, redispatch_seconds=settings.redispatch_seconds)


def _insert(session: Session, settings: Settings, request: InspectionRequest, tenant: str) -> InspectionRecord:
    if isinstance(request.model, InlineModel):
        model = models.register_inline(session, request.model.spec, tenant=tenant, name=request.model.name)
    else:
        with named_at("/model"):
            model = models.hold(session, request.model, tenant=tenant)
    _refuse_misfit(request, model)
    with named_at("/policy"):
        policy = policies.resolve(session, request.policy, tenant=tenant)
    with named_at("/data/artifact"):  # it may have been deleted since it was looked at
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
    """Refuse what no run could use, so that the caller learns it now and not from a failed inspection."""
    inputs = request.data.inputs if request.data is not None else None
    if model.file is not None and model.input is None and inputs is None:
        raise _misfit("/data", "this model was registered without `input`, so bring data.inputs")
    if model.document is not None and model.parameters == 0:
        raise _misfit("/model", NO_PARAMETERS)
    if model.document is not None and request.data is not None:
        spec = from_python(SpecSource, model.source(), code="invalid_spec").spec
        if (found := misfit(spec, request.data, loss=request.loss)) is not None:
            raise _misfit(pointer(["data", *found[0]]), found[1])


def _misfit(place: str, detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail, errors=[FieldError(place, detail)])
