"""The beginning of an inspection: its row in one transaction, and after the commit the doorbell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from sqlalchemy.orm import Session

from gradinspect.contracts.data import ArtifactData
from gradinspect.contracts.document import from_python, pointer
from gradinspect.contracts.fitting import misfit
from gradinspect.contracts.model_spec import ModelSpec
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request import InlineModel, InspectionRequest
from service.artifact_intake import check_data
from service.db import idempotency, inspections, models, outbox, policies
from service.db.engine import Database
from service.db.tables import InspectionRecord, ModelRecord
from service.dispatch import BrokerUnavailable, Dispatcher
from service.settings import Queue, Settings
from service.storage import Store

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
        with _named("/data/artifact"):
            check_data(store, request.data, tenant=tenant)
    with database.write() as session:
        if key is not None:
            digest = idempotency.request_digest("POST", "/v1/inspections", request.model_dump_json())
            first = idempotency.reserve(session, key, digest, tenant=tenant, hours=settings.idempotency_hours)
            if first is not None:
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
        spec = request.model.spec
        model = models.register_inline(session, spec, tenant=tenant, parameters=spec.plan.parameters)
    else:
        with _named("/model"):
            model = models.hold(session, request.model, tenant=tenant)
    _refuse_misfit(request, model)
    return inspections.insert(
        session,
        request,
        tenant=tenant,
        model=model,
        policy=policies.resolve(session, request.policy, tenant=tenant),
        queue=settings.queue_for(request.device, is_upload=model.kind == "torchscript"),
        max_queued=settings.max_queued,
    )


def _refuse_misfit(request: InspectionRequest, model: ModelRecord) -> None:
    """Refuse data that no run could use, so that the caller learns it now and not from a failed inspection."""
    inputs = request.data.inputs if request.data is not None else None
    if model.kind == "torchscript" and model.input is None and inputs is None:
        raise _misfit("/data", "this TorchScript model was registered without `input`, so bring data.inputs")
    if model.spec is not None and request.data is not None:
        spec = from_python(ModelSpec, model.spec, code="invalid_spec")
        if (found := misfit(spec, request.data, loss=request.loss)) is not None:
            raise _misfit(pointer(["data", *found[0]]), found[1])


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say which field of the request names what is not there."""
    try:
        yield
    except ProblemError as problem:
        if problem.code != "not_found":
            raise
        raise ProblemError(problem.code, problem.detail, errors=[FieldError(place, problem.detail)]) from None


def _misfit(place: str, detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail, errors=[FieldError(place, detail)])
