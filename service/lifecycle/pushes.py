"""Acceptance of a report that a client measured: its numbers are judged here, and stored as an inspection's are."""

from __future__ import annotations

from contextlib import suppress

import structlog
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.report.prescription_code import with_code
from gradinspect.contracts.report.report import Measurements, ModelReference, Report
from gradinspect.contracts.report.scale_code import with_scale_code
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.pushes import ReportPush
from gradinspect.rules import judge
from service.db import idempotency, inspections, models, policies, runs
from service.db.engine import Database
from service.db.ids import new_id
from service.db.results import pushed
from service.db.tables import InspectionRecord, ModelRecord
from service.lifecycle.references import named_at
from service.settings import Settings
from service.store.storage import Store

_log = structlog.get_logger(__name__)


def accept(
    database: Database, store: Store, settings: Settings, push: ReportPush, *, tenant: str, key: str | None
) -> tuple[InspectionRecord, bool]:
    """Store a pushed report; return its inspection and whether this call created it.

    Args:
        database: holds the rows.
        store: holds the report.
        settings: how long an Idempotency-Key is remembered.
        push: validated as the result of a child is.
        tenant: owner of the report.
        key: an Idempotency-Key; the same key with the same body returns the same inspection.

    Raises:
        ProblemError: the report, the run or the key does not allow it; nothing was stored.
    """
    requested = push.settings or InspectionSettings(optimizer=push.report.optimizer, seed=push.report.environment.seed)
    with named_at("/policy"), database.read() as session:
        policy = policies.resolve(session, push.policy, tenant=tenant)
    inspection_id = new_id("insp")
    report = _judged(push, policy, requested, inspection_id)
    stored: list[str] = []
    try:
        with database.write() as session:
            if key is not None and (first := _earlier(session, push, settings, tenant, key)) is not None:
                return first, False
            if push.run is not None:
                with named_at("/run"):
                    runs.hold_open(session, push.run, tenant=tenant)
            name = push.name or push.report.model.name
            model = models.register_pushed(session, push.report.model, report.parameters, tenant=tenant, name=name)
            report = report.model_copy(update={"model": _reference(model, name)})
            stored.append(store.reports.put(report, inspection_id=inspection_id, attempt=1))
            record = pushed.insert_ended(
                session, report, push, inspection_id=inspection_id, tenant=tenant, model=model, policy=policy,
                settings=requested, report_key=stored[0],
            )  # fmt: skip
            if key is not None:
                idempotency.complete(session, key, record.id, tenant=tenant)
            session.refresh(record)
            return record, True
    except ProblemError:
        for name_of_file in stored:
            with suppress(OSError):  # the sweep removes what is left
                store.reports.delete(name_of_file)
        raise


def _judged(push: ReportPush, policy: Policy, settings: InspectionSettings, inspection_id: str) -> Report:
    """Judge the numbers of a report; its verdict, its sentences and its code are made anew."""
    measured = _numbers(push.report)
    try:
        return judge(
            measured, policy=policy, model=push.report.model, inspection=inspection_id, settings=settings,
            measured_by="client",
        )  # fmt: skip
    except Exception:  # noqa: BLE001  # every field is valid, but what one part says of another may not be
        _log.warning("pushed_report_not_judged", exc_info=True)
        detail = "the parts of the report contradict each other, so no rule can judge it"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/report", detail)]) from None


def _numbers(report: Report) -> Measurements:
    fields = {name: getattr(report, name) for name in Measurements.model_fields}
    fields["environment"] = report.environment.model_copy(update={"confinement": "none"})
    if report.lr_scales is not None:
        fields["lr_scales"] = with_scale_code(report.lr_scales, report.optimizer)
    if report.prescription is not None:
        fields["prescription"] = with_code(report.prescription)
    return Measurements.model_construct(**fields)


def _earlier(session: Session, push: ReportPush, settings: Settings, tenant: str, key: str) -> InspectionRecord | None:
    digest = idempotency.request_digest("POST", "/v1/reports", push.model_dump_json())
    first = idempotency.reserve(session, key, digest, tenant=tenant, hours=settings.idempotency_hours)
    if first is None:
        return None
    with named_at("/headers/Idempotency-Key"):  # it may be deleted while its key is remembered
        return inspections.get(session, first, tenant=tenant)


def _reference(model: ModelRecord, name: str | None) -> ModelReference:
    return ModelReference.model_validate({"id": model.id, "name": name, "kind": model.kind, "digest": model.digest})
