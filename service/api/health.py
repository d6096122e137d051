"""Endpoints for operators: liveness, readiness and metrics."""

from __future__ import annotations

from typing import Literal

from apiflask import APIBlueprint
from flask import current_app
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import Field
from werkzeug.wrappers import Response

from gradinspect.contracts.document import Count, Document
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import Limits
from gradinspect.version import __version__
from service.access.authentication import identify
from service.api.http.answers import json_answer
from service.api.http.operations import Answer, operation
from service.api.metrics import ServiceMetrics
from service.context import Context, caller, context
from service.db import inspections, workers
from service.db.workers import OneWorker
from service.lifecycle.dispatch import BrokerUnavailable

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

blueprint = APIBlueprint("health", __name__, tag="operations")


class Liveness(Document):
    """This process answers."""

    status: Literal["alive"] = "alive"
    version: str


class RequestLimits(Document):
    """How much one caller may send."""

    upload_bytes: Count
    concurrent_uploads: Count = Field(description="Of one process.")
    body_bytes: Count = Field(description="Of every body that is not an upload.")
    queued_inspections: Count


class Readiness(Document):
    """What this process can serve."""

    status: Literal["ready", "degraded"] = Field(description="degraded: inspections are accepted and wait.")
    version: str
    database: Literal["up"] = "up"
    broker: Literal["up", "down"]
    queues: dict[str, Count | None] = Field(description="Messages that wait, by queue; null while the broker is down.")
    inspections: dict[str, Count] = Field(
        description="How many are in each status: for the operator all, for others their tenant's, without a key none."
    )
    limits: RequestLimits
    job_limits: Limits = Field(description="What one inspection may use.")
    uploads: Literal["enabled", "disabled", "unknown"] = Field(
        description="disabled: a living worker cannot confine uploaded models. unknown: no worker is alive."
    )
    confinement: str | None = Field(description="The weakest level of any living worker; null without one.")
    reason: str = Field(default="", description="Why the level is not full.")
    torch_versions: tuple[str, ...] = Field(description="Of the living workers.")
    workers: tuple[OneWorker, ...] = Field(description="For the operator only, where keys are needed.")


@blueprint.get("/healthz")
@operation(scope=None, answers=[Answer(200, "The process is alive.", Liveness)])
def get_liveness() -> Response:
    """Report that this process is alive; asks no other process."""
    return json_answer(Liveness(version=__version__))


@blueprint.get("/readyz")
@operation(
    scope=None, answers=[Answer(200, "The database answers; without the broker the status is `degraded`.", Readiness)]
)
def get_readiness() -> Response:
    """Report what this process can serve: 503 while the database is unreachable."""
    here, asking = context(), identify()
    is_operator = asking is not None and asking.is_operator
    with here.database.read() as session:
        status = workers.living(session)
        seen_by = None if is_operator else asking
        counts = (
            inspections.count_by_status(session, tenant=seen_by.tenant if seen_by is not None else None).counts
            if asking is not None
            else {}
        )
    queues = queue_depths(here)
    return json_answer(
        Readiness(
            status="degraded" if queues is None else "ready",
            version=__version__,
            broker="down" if queues is None else "up",
            queues=queues if queues is not None else dict.fromkeys(here.settings.queues),
            inspections={str(name): count for name, count in counts.items()},
            limits=_limits(here),
            job_limits=here.settings.limits,
            uploads="unknown" if status is None else "enabled" if status.takes_uploads else "disabled",
            confinement=status.confinement if status is not None else None,
            reason=status.reason if status is not None else "",
            torch_versions=status.torch_versions if status is not None else (),
            workers=status.workers if status is not None and is_operator else (),
        )
    )


@blueprint.get("/metrics")
@operation(scope="admin", answers=[Answer(200, "Prometheus' text format.", other=["text/plain"])])
def get_metrics() -> Response:
    """Return counts and durations for Prometheus. They are of all tenants, so only the operator may read them."""
    if not caller().is_operator:
        raise ProblemError("missing_scope", "only an admin of the tenant 'default' may read the metrics of all tenants")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(current_app.extensions["gradinspect_durations"])
    registry.register(ServiceMetrics(context()))
    return Response(generate_latest(registry), content_type=METRICS_TYPE)


def queue_depths(here: Context) -> dict[str, Count | None] | None:
    """Count the messages waiting in each queue; None while the broker is down."""
    try:
        return {str(queue): depth for queue, depth in here.dispatcher.depths(here.settings.queues).items()}
    except BrokerUnavailable:
        return None


def _limits(here: Context) -> RequestLimits:
    settings = here.settings
    return RequestLimits(
        upload_bytes=settings.max_upload_bytes,
        concurrent_uploads=settings.max_concurrent_uploads,
        body_bytes=settings.max_spec_body_bytes,
        queued_inspections=settings.max_queued,
    )
