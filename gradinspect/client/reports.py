"""Reports that were measured here, pushed to a service."""

from __future__ import annotations

from uuid import uuid4

from gradinspect.client.calls import Calls
from gradinspect.contracts.report import report as contract
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.pushes import ReportPush, TrainingStep
from gradinspect.contracts.wire.resources import InspectionResource


class Reports:
    """`client.reports`: push."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def push(
        self,
        report: contract.Report,
        *,
        name: str | None = None,
        labels: dict[str, str] | None = None,
        policy: str = "default",
        settings: InspectionSettings | None = None,
        run: str | None = None,
        step: int | None = None,
        training: TrainingStep | None = None,
        key: str | None = None,
    ) -> InspectionResource:
        """Store a report on the service, which judges its numbers anew.

        Args:
            report: as `inspect` returns it.
            name: of the model; by default the report's.
            labels: of the inspection that it becomes.
            policy: name or id of a policy there.
            settings: what was asked for; by default what the report remembers.
            run: id of a run that it is a step of.
            step: optimizer steps before this one; goes with `run`.
            training: what the trainer did at that step.
            key: an Idempotency-Key; by default a new one, so that retries of this call store one report.

        Raises:
            GradinspectError: the service refuses it.
        """
        settings = settings or getattr(report, "settings", None)
        fields = {field: getattr(report, field) for field in contract.Report.model_fields}
        body = ReportPush(
            report=contract.Report.model_construct(**fields), name=name, labels=labels or {}, policy=policy,
            settings=settings, run=run, step=step, training=training,
        )  # fmt: skip
        return self.send(body, key=key)

    def send(self, push: ReportPush, *, key: str | None = None) -> InspectionResource:
        """Store a push as it is, such as a line of a file that `watch` wrote."""
        return self._calls.read(
            InspectionResource, "POST", "/v1/reports", content=push_json(push),
            headers={"Content-Type": "application/json", "Idempotency-Key": key or str(uuid4())},
        )  # fmt: skip


def push_json(push: ReportPush) -> bytes:
    """Write a push as JSON; sections that were not measured are absent."""
    absent = {name for name in contract.Report.model_fields if getattr(push.report, name) is None}
    return push.model_dump_json(exclude={"report": absent}).encode()
