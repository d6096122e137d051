"""An inspection that ended elsewhere: its row and results, inserted together."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.pushes import ReportPush
from service.db import clock
from service.db.results import writing
from service.db.tables import InspectionRecord, LabelRecord, ModelRecord


def insert_ended(
    session: Session,
    report: Report,
    push: ReportPush,
    *,
    inspection_id: str,
    tenant: str,
    model: ModelRecord,
    policy: Policy,
    settings: InspectionSettings,
    report_key: str,
) -> InspectionRecord:
    """Add an inspection that a client measured, with its rows.

    Args:
        report: judged here.
        push: as it was sent; its labels, run and step are stored.
        inspection_id: a new id, which the report names.
        model: from `models.register_pushed` in this transaction.
        policy: by which it was judged.
        settings: what the client had asked for.
        report_key: from `store.reports.put`, which has written the file.

    Raises:
        ProblemError: `conflict`, the run has this step.
    """
    record = InspectionRecord(
        id=inspection_id,
        tenant_id=tenant,
        model_id=model.id,
        request=settings.model_dump(mode="json"),
        labels=dict(push.labels),
        policy=push.policy,
        policy_document=policy.model_dump(mode="json", exclude_unset=True),
        queue="gpu" if report.environment.device.startswith("cuda") else "cpu",
        measured_by="client",
        run_id=push.run,
        step=push.step,
        training=push.training.model_dump(mode="json") if push.training is not None else None,
        status="succeeded",
        stage="done",
        fraction=1.0,
        verdict=report.verdict,
        summary=report.summary.model_dump(mode="json"),
        report_key=report_key,
        attempt=1,
        finished_at=clock.now(),  # without `started_at`: the time that it took elsewhere is no time of a worker
    )
    try:
        with session.begin_nested():
            session.add(record)
    except IntegrityError:
        raise ProblemError("conflict", f"the run has a report of step {push.step} already") from None
    session.add_all(_labels(record, push.labels))
    session.flush()
    owner = writing.RowOwner(inspection_id=record.id, tenant_id=tenant, model_id=model.id)
    writing.insert(session, report, owner)
    return record


def _labels(record: InspectionRecord, labels: Mapping[str, str]) -> list[LabelRecord]:
    return [
        LabelRecord(inspection_id=record.id, tenant_id=record.tenant_id, key=key, value=value)
        for key, value in labels.items()
    ]
