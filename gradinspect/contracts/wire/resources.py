"""The nouns of the HTTP API as the service writes them and the client reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gradinspect.contracts.document import Count, Digest, Document, Fraction, ModelName, Name, Text
from gradinspect.contracts.report.report import Finding, PolicyReference, Summary, Verdict
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.request.policy import RulePolicy
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
ItemT = TypeVar("ItemT", bound=BaseModel)


class ModelRegistration(Document):
    """The body of `POST /v1/models`: a spec, or an uploaded TorchScript file."""

    name: ModelName | None = None
    spec: ModelSpec | None = None
    torchscript: Digest | None = None
    weights: Digest | None = Field(default=None, description="safetensors with the spec's state_dict")
    input: SampleInput | None = Field(
        default=None, description="TorchScript only: input without the batch axis, for synthetic data"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelRegistration:
        if (self.spec is None) == (self.torchscript is None):
            raise ValueError("give either spec or torchscript")
        if self.torchscript is not None and self.weights is not None:
            raise ValueError("weights goes with spec; a TorchScript file carries its own")
        if self.spec is not None and self.input is not None:
            raise ValueError("input goes with torchscript; a spec has its own input")
        return self


class ArtifactResource(Document):
    """Bytes that were uploaded once and are named by their SHA-256."""

    id: Digest
    kind: Literal["torchscript", "safetensors", "unknown"]
    size_bytes: Count
    created_at: datetime


class ModelResource(Document):
    """A registered model."""

    id: str
    name: str | None
    kind: Literal["spec", "torchscript"]
    digest: str
    parameters: Count | None = Field(description="Null for a TorchScript file that no inspection has loaded yet.")
    created_at: datetime
    spec: ModelSpec | None = None
    torchscript: Digest | None = None
    weights: Digest | None = None
    input: SampleInput | None = Field(
        default=None, description="Without the batch axis. Null for a TorchScript file registered without one."
    )


class SpecLayer(Document):
    """One layer call of a spec, in order, with what it gives."""

    name: Name
    kind: Name
    output_shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    parameters: Count


class SpecDescription(Document):
    """What a spec would build: the answer of `POST /v1/models:validate`."""

    parameters: Count
    layers: tuple[SpecLayer, ...]
    output_shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    parameter_bytes: Count
    activation_bytes_per_sample: Count


class Progress(Document):
    """How far a running inspection is."""

    stage: Name
    fraction: Fraction


class ErrorResource(Document):
    """Why an inspection failed."""

    code: Name
    detail: Text
    attempt: Count


class InspectionLinks(Document):
    """Where the parts of an inspection are."""

    self: str
    report: str
    layers: str
    parameters: str
    findings: str
    lr_scales: str
    events: str
    page: str


class InspectionResource(Document):
    """One inspection. `verdict` and `summary` are null until it has ended well, `error` unless it failed."""

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
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: InspectionLinks


class LayerRow(LayerMeasurement):
    """A layer call with the inspection and model it belongs to."""

    inspection: str
    model: str


class ParameterRow(ParameterMeasurement):
    """A parameter with the inspection and model it belongs to."""

    inspection: str
    model: str


class FindingsResource(Document):
    """What the rules say about one inspection, under the policy it was judged by or under another one."""

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


class Page(BaseModel, Generic[ItemT]):
    """One page of a list; `next_cursor` is null on the last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[ItemT]
    next_cursor: str | None = None
