"""The resources of the HTTP API as the service writes and the client reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gradinspect.contracts.document import Count, Digest, Document, Fraction, ModelName, Name, Text
from gradinspect.contracts.report.report import Finding, MeasuredBy, PolicyReference, Summary, Verdict
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.request.policy import RulePolicy
from gradinspect.contracts.sources import ArtifactKind, SourceFields, SourceKind, SourceRequest

Scope = Literal["read", "submit", "admin"]
Tenant = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
ItemT = TypeVar("ItemT", bound=BaseModel)


class _Named(Document):
    name: ModelName | None = None


class ModelRegistration(SourceRequest, _Named):
    """The body of `POST /v1/models`: a spec, or the digest of an uploaded model."""


class ArtifactResource(Document):
    """Bytes that were uploaded once and are named by their SHA-256."""

    id: Digest
    kind: ArtifactKind
    size_bytes: Count
    created_at: datetime


class _RegisteredModel(Document):
    id: str
    name: str | None
    kind: Literal[SourceKind, "module"] = Field(
        description="`module`, or another kind without its field: reports of it were pushed, the model was not."
    )
    digest: str
    parameters: Count | None = Field(description="Null for an uploaded model that no inspection has loaded yet.")
    created_at: datetime


class ModelResource(SourceFields, _RegisteredModel):
    """A registered model."""


class SpecLayer(Document):
    """One layer call of a spec, in order, with its output."""

    name: Name
    kind: Name
    output_shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    parameters: Count


class SpecDescription(Document):
    """The layers that a spec would build: the response of `POST /v1/models:validate`."""

    parameters: Count
    layers: tuple[SpecLayer, ...]
    output_shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    parameter_bytes: Count
    activation_bytes_per_sample: Count


class Progress(Document):
    """Progress of a running inspection."""

    stage: Name
    fraction: Fraction


class ErrorResource(Document):
    """The reason why an inspection failed."""

    code: Name
    detail: Text
    attempt: Count


class InspectionLinks(Document):
    """URLs of the parts of an inspection."""

    self: str
    report: str
    layers: str
    parameters: str
    findings: str
    lr_scales: str
    prescription: str
    events: str
    page: str


class InspectionResource(Document):
    """One inspection. `verdict` and `summary` are null until it has succeeded, `error` unless it failed."""

    id: str
    status: Status
    model: str
    verdict: Verdict | None
    progress: Progress
    summary: Summary | None
    error: ErrorResource | None
    attempt: Count
    labels: dict[str, str]
    policy: str
    measured_by: MeasuredBy
    run: str | None
    step: Count | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: InspectionLinks


class LayerRow(LayerMeasurement):
    """A layer call with the inspection and model it belongs to."""

    inspection: str
    model: str
    measured_by: MeasuredBy = "service"


class ParameterRow(ParameterMeasurement):
    """A parameter with the inspection and model it belongs to."""

    inspection: str
    model: str
    measured_by: MeasuredBy = "service"


class FindingsResource(Document):
    """The findings of one inspection, under the policy that judged it or another one."""

    inspection: str
    policy: PolicyReference
    verdict: Verdict
    items: tuple[Finding, ...] = Field(description="Severest first.")
    next_cursor: None = Field(default=None, description="Always null: findings are one page.")


class PolicyResource(Document):
    """A named set of changes to the rules' thresholds."""

    id: str
    name: str
    version: Count
    description: Text
    rules: dict[str, RulePolicy] = Field(description="As it was sent: a level left out keeps the rule's default.")
    created_at: datetime | None = Field(description="Null for the built-in policy.")


class KeyRequest(Document):
    """The body of `POST /v1/keys`."""

    name: ModelName
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = Field(
        default=("read",), description="`submit` includes `read`, and `admin` both."
    )
    expires_at: datetime | None = Field(default=None, description="When the key ends; never, when left out.")
    tenant: Tenant | None = Field(
        default=None, description="The caller's tenant, when left out. Only the operator names another one."
    )


class KeyResource(Document):
    """An API key, without its secret."""

    id: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute; null for a key that was never used.")


class NewKeyResource(KeyResource):
    """A key that was just made."""

    key: str = Field(description="The whole key. It is shown here once; the service keeps only its digest.")


class QuotaResource(Document):
    """A quota of the tenant, and how much of it is used."""

    name: Literal["queued", "running", "stored_bytes"]
    used: Count
    limit: Count | None = Field(description="Null where there is none.")


class RateResource(Document):
    """What is left of one rate."""

    name: Literal["submissions", "uploads", "upload_bytes", "report_reads"]
    applies_to: Literal["key", "tenant"]
    limit: Count
    window_seconds: Count
    remaining: Count
    reset_seconds: Count = Field(description="Until the whole limit is available again.")


class UsageResource(Document):
    """The quotas of a tenant and the rates of a key."""

    tenant: str
    key: str | None = Field(description="Id of the caller's key; null on loopback without a key.")
    scopes: tuple[Scope, ...]
    quotas: tuple[QuotaResource, ...]
    rates: tuple[RateResource, ...] = Field(description="Empty without a key, which nothing is counted for.")


class ActResource(Document):
    """An entry of the audit log."""

    id: str
    at: datetime
    key: str | None = Field(description="Id of the caller's key; null on loopback without a key.")
    action: str = Field(description="Name of the operation.")
    object: str | None = Field(description="Id of what it was done to.")
    address: str = Field(description="The caller's address.")
    status: Count
    code: str | None = Field(description="Code of the problem; null after a success.")
    request_id: str


class Page(BaseModel, Generic[ItemT]):
    """One page of a list; `next_cursor` is null on the last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[ItemT]
    next_cursor: str | None = None
