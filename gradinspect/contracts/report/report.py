"""The report: measurements, and what the rules say about them.

Definitions of every number: docs/diagnostics.md. Measurements come from confined processes that ran untrusted models,
so every string and every list is bounded. Rows are in `rows`, sections in `sections`, outcomes of rules in `outcomes`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Name, Text
from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.losses import MAX_TERMS, LossTerm, Outputs
from gradinspect.contracts.report.operations import MAX_FAULTS, Fault, Operation
from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.rows import (
    MAX_PARAMETERS,
    LayerMeasurement,
    Names,
    Number,
    ParameterMeasurement,
)
from gradinspect.contracts.report.sections import MAX_LAYERS, ScalesVerdict, Sections, SeedSpread
from gradinspect.contracts.report.setup import Setup
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.request.policy import Severity
from gradinspect.contracts.request.request import Mode
from gradinspect.contracts.sources import SourceKind

SCHEMA_VERSION = 2  # of reports that this release writes

Verdict = Literal["pass", "warn", "fail", "undetermined"]
MeasuredBy = Literal["service", "client"]


class RemedyCheck(Document):
    """The gain measured with a remedy applied to a fresh copy of the model; in reports of release 0.1.0 only."""

    action: Name
    arguments: dict[str, Any] = {}  # Any: as in `Remedy`
    cumulative_gain: Number = Field(default=None, description="As in `depth_decay`, after the remedy.")
    reason: Text | None = Field(default=None, description="Why nothing could be measured.")


class SelfCheck(Document):
    """An identity that the numbers must satisfy, checked in this run."""

    name: Name
    status: Literal["passed", "failed", "not_applicable"]
    value: Number = None
    tolerance: Number = None
    detail: Text = ""


class Environment(Document):
    """Where and how the numbers were measured."""

    gradinspect_version: Name
    torch_version: Name
    device: Name
    dtype: Name
    threads: Count
    seed: Count
    data_digest: Annotated[str, Field(max_length=80)] | None = None
    synthetic_data: bool = False
    confinement: Name = "none"
    mode: Mode | None = Field(default=None, description="In which the model ran.")
    wall_seconds: Number = None
    cpu_seconds: Number = None
    peak_memory_bytes: Count | None = None
    sampled_layers: Count = Field(
        default=0, description="Layer calls with so large an output that slopes or similarity come from a sample of it."
    )
    stages: Annotated[dict[Name, Finite], Field(max_length=32)] = Field(
        default={}, description="Seconds spent in each stage."
    )


class MeasuredSummary(Document):
    """The numbers of the whole model."""

    loss: Number
    expected_initial_loss: Number = None
    parameters: Count
    layers: Count
    total_grad_norm: Number = None
    nonfinite_count: Count = Field(
        default=0, description="Values that are not finite: among the loss, all activations and all gradients."
    )


class Measurements(Sections):
    """The engine's result: numbers without judgement."""

    environment: Environment
    summary: MeasuredSummary
    layers: Annotated[tuple[LayerMeasurement, ...], Field(max_length=MAX_LAYERS)] = ()
    parameters: Annotated[tuple[ParameterMeasurement, ...], Field(max_length=MAX_PARAMETERS)] = ()
    self_checks: Annotated[tuple[SelfCheck, ...], Field(max_length=64)] = ()
    faults: Annotated[tuple[Fault, ...], Field(max_length=MAX_FAULTS)] = Field(
        default=(), description="Operations at which the first pass breaks, in the order in which they explain it."
    )
    spread: SeedSpread | None = None
    outputs: Outputs | None = Field(default=None, description="Which outputs of the model the loss depends on.")
    losses: Annotated[tuple[LossTerm, ...], Field(max_length=MAX_TERMS)] = Field(
        default=(), description="The terms of a loss that is a sum of several; empty for a loss of one term."
    )
    prescription: Prescription | None = Field(
        default=None, description="Changes with which the model was seen to learn; absent without a trial."
    )
    remedy_checks: Annotated[tuple[RemedyCheck, ...], Field(max_length=16)] = ()
    setup: Setup | None = None


class Remedy(Document):
    """The change to make, for a machine; `message` and `explanation` of the finding are for people."""

    action: Name
    arguments: dict[str, Any] = {}  # Any: each action has its own arguments, documented with its rule
    code: Annotated[str, Field(max_length=20_000)] | None = Field(
        default=None, description="Null: `prescription` has the code. Reports of release 0.1.0 have some here."
    )
    checked_gain: Number = Field(
        default=None, description="Cumulative gain measured with the remedy applied, in reports of release 0.1.0."
    )


class Finding(Document):
    """One rule that fired: the value, the threshold and the layers."""

    rule: Name
    severity: Severity
    layers: Names = ()
    parameters: Names = ()
    value: Number = None
    threshold: Number = None
    message: Text
    explanation: Text
    remedy: Remedy | None = None
    operation: Operation | None = Field(default=None, description="The responsible operation, where located.")


class Summary(MeasuredSummary):
    """The numbers of the whole model, with the verdict and the layers and parameters behind it."""

    verdict: Verdict
    worst: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    lr_scales: ScalesVerdict | None = Field(
        default=None, description="The answer about learning-rate scales; null when it was not asked for."
    )


class PolicyReference(Document):
    """The policy that a report was judged by."""

    name: Annotated[str, Field(max_length=64)]
    version: Count


class ModelReference(Document):
    """Which model was inspected."""

    id: Annotated[str, Field(max_length=64)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    kind: Literal[SourceKind, "module"]
    digest: Annotated[str, Field(max_length=80)] | None = None


class Judgement(Document):
    """What a report says about its measurements: the model, the verdict, the findings and what they were judged by."""

    schema_version: Annotated[int, Field(ge=1)] = Field(
        default=1, description="2: `rules` is recorded. 1, also where it is absent: release 0.1.0, without `rules`."
    )
    inspection: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Id of the inspection; null for a local one."
    )
    model: ModelReference
    measured_by: MeasuredBy = Field(
        default="service", description="`client`: where the model is; the service has judged the numbers, no more."
    )
    verdict: Verdict
    policy: PolicyReference | None = Field(default=None, description="What the findings were judged by.")
    optimizer: Optimizer | None = Field(
        default=None, description="As declared; rules read it when the report is judged again."
    )
    findings: Annotated[tuple[Finding, ...], Field(max_length=1000)] = ()
    rules: Annotated[tuple[RuleOutcome, ...], Field(max_length=1000)] = Field(
        default=(), description="Every rule with its outcome, in the catalogue's order; empty in schema version 1."
    )


class Report(Measurements, Judgement):
    """Measurements, judged."""

    summary: Summary
