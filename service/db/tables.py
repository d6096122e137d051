"""The tables of artifacts, models, policies, inspections with their labels, runs, and idempotency keys.

Every table and every unique index contains the tenant. Primary keys begin with the id, so that a worker, which receives
only an id, finds its row by the same index. Result rows are in `results.tables`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.db import clock
from service.db.texts import PlainText

Json = dict[str, Any]  # Any: JSON of a contract, validated before it is written and when it is read


class Table(DeclarativeBase):
    """Base of all tables: names of constraints, and column types for Python types."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pk",
            "fk": "%(table_name)s_%(referred_table_name)s_fk",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map = {  # SQLAlchemy's own protocol, read once
        str: PlainText(),
        int: BigInteger(),
        float: Double(),
        datetime: clock.UtcTime(),
        Json: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
        list[int]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
    }

    tenant_id: Mapped[str]


class ArtifactRecord(Table):
    """Uploaded bytes, named by their SHA-256; the bytes are in the store."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(doc="sha256:…")
    kind: Mapped[str] = mapped_column(doc="contracts.sources.ArtifactKind")
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=clock.now())

    __table_args__ = (PrimaryKeyConstraint("id", "tenant_id"),)


_INLINE = text("is_inline AND deleted_at IS NULL")
_UNNAMED = text("is_inline AND deleted_at IS NULL AND name IS NULL")


class ModelRecord(Table):
    """A registered model. A deleted one keeps its row, because inspections that ended still name it."""

    __tablename__ = "models"

    id: Mapped[str]
    name: Mapped[str | None]
    kind: Mapped[str] = mapped_column(doc="contracts.sources.SourceKind")
    digest: Mapped[str] = mapped_column(doc="of the canonical document, or of the file")
    # The columns are named after the first source that used them; later kinds of source use them too.
    document: Mapped[Json | None] = mapped_column("spec", doc="of a source that is a document")
    file: Mapped[str | None] = mapped_column("torchscript", doc="artifact id, of a source that is a file")
    weights: Mapped[str | None] = mapped_column(doc="artifact id")
    input: Mapped[Json | None] = mapped_column(doc="declared sample input of a file")
    parameters: Mapped[int | None] = mapped_column(doc="null until a file was loaded once")
    is_inline: Mapped[bool] = mapped_column(default=False, doc="registered by an inspection that brought its spec")
    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        Index("models_newest", "tenant_id", "created_at", "id"),
        Index("models_name", "tenant_id", "name", "created_at", "id"),
        # Nulls are distinct in a unique index, so inline models without a name need a separate index.
        Index(
            "models_inline_digest",
            "tenant_id",
            "digest",
            unique=True,
            sqlite_where=_UNNAMED,
            postgresql_where=_UNNAMED,
        ),
        Index(
            "models_inline_name",
            "tenant_id",
            "digest",
            "name",
            unique=True,
            sqlite_where=_INLINE,
            postgresql_where=_INLINE,
        ),
        Index("models_torchscript", "tenant_id", "torchscript"),
        Index("models_weights", "tenant_id", "weights"),
    )

    @property
    def is_here(self) -> bool:
        """Whether the service has the model and not just reports of it."""
        return self.document is not None or self.file is not None

    def source(self) -> Json:
        """Return the JSON of the model's source, as `contracts.sources` validates it."""
        held = {"weights": self.weights, "input": self.input, self.kind: self.file or self.document}
        return {"kind": self.kind} | {name: value for name, value in held.items() if value is not None}


class PolicyRecord(Table):
    """A named set of rule thresholds. Inspections keep a copy, so a policy can be deleted at any time."""

    __tablename__ = "policies"

    id: Mapped[str]
    name: Mapped[str]
    version: Mapped[int]
    document: Mapped[Json] = mapped_column(doc="contracts.policy.Policy")
    created_at: Mapped[datetime] = mapped_column(default=clock.now())

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        Index("policies_name", "tenant_id", "name", "version", unique=True),
    )


class RunRecord(Table):
    """A training run whose watched steps clients push as reports."""

    __tablename__ = "runs"

    id: Mapped[str]
    name: Mapped[str | None]
    every: Mapped[int | None] = mapped_column(doc="optimizer steps between watched ones")
    labels: Mapped[dict[str, str]]
    end: Mapped[Json | None] = mapped_column(doc="contracts.wire.runs.RunEnd")
    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        Index("runs_newest", "tenant_id", "created_at", "id"),
    )


_OF_A_RUN = text("run_id IS NOT NULL AND deleted_at IS NULL")
_RUNNING = text("status = 'running'")
_QUEUED = text("status = 'queued'")


class InspectionRecord(Table):
    """One inspection. This row is authoritative; broker messages only name its id."""

    __tablename__ = "inspections"

    id: Mapped[str]
    model_id: Mapped[str]
    request: Mapped[Json] = mapped_column(doc="contracts.request.InspectionSettings: what the engine sees")
    labels: Mapped[dict[str, str]] = mapped_column(doc="as sent; the labels table is their index")
    policy: Mapped[str] = mapped_column(doc="as asked for, name or id")
    policy_document: Mapped[Json] = mapped_column(doc="contracts.policy.Policy as it was then")
    data_artifact: Mapped[str | None] = mapped_column(doc="artifact id of the batch")
    queue: Mapped[str] = mapped_column(doc="device class: cpu or gpu")
    measured_by: Mapped[str] = mapped_column(default="service", server_default="service", doc="service or client")
    run_id: Mapped[str | None] = mapped_column(doc="the run of which a pushed report is a step")
    step: Mapped[int | None]
    training: Mapped[Json | None] = mapped_column(doc="contracts.wire.pushes.TrainingStep")

    status: Mapped[str] = mapped_column(default="queued")
    stage: Mapped[str] = mapped_column(default="queued")
    fraction: Mapped[float] = mapped_column(default=0.0)
    verdict: Mapped[str | None]
    summary: Mapped[Json | None] = mapped_column(doc="contracts.report.Summary")
    report_key: Mapped[str | None] = mapped_column(doc="where the store keeps the whole report")
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    error_attempt: Mapped[int | None]

    attempt: Mapped[int] = mapped_column(default=0)
    releases: Mapped[int] = mapped_column(default=0, doc="attempts given back by a worker that was told to stop")
    lease_token: Mapped[str | None]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    available_at: Mapped[datetime] = mapped_column(default=clock.now(), doc="not claimed before: backoff")
    dispatch_due_at: Mapped[datetime] = mapped_column(default=clock.now(), doc="to be published (again) from then on")
    dispatched_at: Mapped[datetime | None]
    dispatches: Mapped[int] = mapped_column(default=0)

    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None] = mapped_column(doc="marked by retention; hidden, and removed later")

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        ForeignKeyConstraint(["model_id", "tenant_id"], ["models.id", "models.tenant_id"]),
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        CheckConstraint("status <> 'running' OR lease_token IS NOT NULL", name="lease"),
        Index("inspections_newest", "tenant_id", "created_at", "id"),
        Index("inspections_status", "tenant_id", "status", "created_at", "id"),
        Index("inspections_verdict", "tenant_id", "verdict", "created_at", "id"),
        Index("inspections_model", "tenant_id", "model_id", "created_at", "id"),
        Index("inspections_data", "tenant_id", "data_artifact"),
        Index(
            "inspections_run",
            "tenant_id",
            "run_id",
            "step",
            unique=True,
            sqlite_where=_OF_A_RUN,
            postgresql_where=_OF_A_RUN,
        ),
        Index("inspections_leases", "lease_until", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
        Index("inspections_started", "tenant_id", "started_at"),
        Index("inspections_turns", "tenant_id", "created_at", "id", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index("inspections_dispatch", "dispatch_due_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
        Index(
            "inspections_kept",
            "finished_at",
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "inspections_marked",
            "deleted_at",
            sqlite_where=text("deleted_at IS NOT NULL"),
            postgresql_where=text("deleted_at IS NOT NULL"),
        ),
    )


class LabelRecord(Table):
    """One label of one inspection, so that lists can be filtered by it."""

    __tablename__ = "labels"

    inspection_id: Mapped[str]
    key: Mapped[str]
    value: Mapped[str]

    __table_args__ = (
        PrimaryKeyConstraint("inspection_id", "tenant_id", "key"),
        ForeignKeyConstraint(
            ["inspection_id", "tenant_id"], ["inspections.id", "inspections.tenant_id"], ondelete="CASCADE"
        ),
        Index("labels_value", "tenant_id", "key", "value", "inspection_id"),
    )


class IdempotencyRecord(Table):
    """An Idempotency-Key and the inspection that its first request made."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str]
    request_digest: Mapped[str]
    inspection_id: Mapped[str | None] = mapped_column(doc="null only inside the transaction that makes it")
    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    expires_at: Mapped[datetime]

    __table_args__ = (
        PrimaryKeyConstraint("key", "tenant_id"),
        Index("idempotency_keys_expiry", "expires_at"),
    )


class WorkerRecord(Table):
    """A worker process, and when it last wrote that it is alive."""

    __tablename__ = "workers"

    name: Mapped[str]
    document: Mapped[Json] = mapped_column(doc="db.workers.OneWorker")
    seen_at: Mapped[datetime]

    __table_args__ = (PrimaryKeyConstraint("name", "tenant_id"),)


class CounterRecord(Table):
    """A number that only rises, of events that leave no row, and of rows that retention has removed."""

    __tablename__ = "counters"

    name: Mapped[str]
    value: Mapped[float]

    __table_args__ = (PrimaryKeyConstraint("name", "tenant_id"),)
