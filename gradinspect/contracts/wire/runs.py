"""Training runs on a service: a series of pushed reports over steps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, ModelName, Name, Text
from gradinspect.contracts.report.report import Verdict
from gradinspect.contracts.report.rows import Number
from gradinspect.contracts.request.policy import Severity
from gradinspect.contracts.request.request import LabelKey, LabelValue
from gradinspect.contracts.wire.pushes import TrainingStep

MAX_STEPS = 2_000  # chosen: reports of one run; twice as many as a wide chart has pixels for
MAX_DRAWN_LAYERS = 160  # chosen: slightly more than the rows of pixels of the chart
MAX_DRAWN_STEPS = 200


class RunRequest(Document):
    """The body of `POST /v1/runs`."""

    name: ModelName | None = None
    every: Annotated[int, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="Optimizer steps from one watched step to the next, as the client plans it."
    )
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}


class RunEnd(Document):
    """How a run ended; the body of `POST /v1/runs/{id}/end`."""

    outcome: Literal["completed", "stopped", "failed"]
    step: Count | None = None
    rule: Name | None = Field(default=None, description="The finding that stopped it.")
    detail: Text | None = None


class RunResource(Document):
    """A training run."""

    id: str
    name: str | None
    every: int | None
    labels: dict[str, str]
    created_at: datetime
    ended_at: datetime | None
    end: RunEnd | None
    steps: Count = Field(description="Reports that were pushed to it.")
    last_step: Count | None
    verdict: Verdict | None = Field(description="Of the last step.")
    page: str


class RunPoint(Document):
    """One watched step."""

    step: Count
    inspection: str
    verdict: Verdict
    loss: Number
    total_grad_norm: Number
    training: TrainingStep | None
    rules: tuple[Name, ...] = Field(description="Of the findings that warn or fail, severest first.")


class RunFinding(Document):
    """A rule that made a finding at some step."""

    rule: Name
    severity: Severity = Field(description="The severest one.")
    first_step: Count
    last_step: Count
    steps: Count = Field(description="Watched steps with the finding.")
    message: Text = Field(description="At the first step.")


class SignalSeries(Document):
    """The backward signal over depth and time.

    Attributes:
        depths: of the layer calls that are listed, input first.
        steps: the watched steps that are listed.
        gains: a row for each step; `cumulative_backward_gain` of each listed call, null where it is not known.
    """

    layers: tuple[Name, ...]
    depths: tuple[Count, ...]
    steps: tuple[Count, ...]
    gains: tuple[tuple[Number, ...], ...]


class RunSeries(RunResource):
    """A run with everything that changed over its steps."""

    points: tuple[RunPoint, ...] = Field(description="In the order of steps.")
    findings: tuple[RunFinding, ...] = Field(description="In the order in which they appeared.")
    signals: SignalSeries = Field(
        description=f"At most {MAX_DRAWN_LAYERS} layer calls and {MAX_DRAWN_STEPS} steps, evenly chosen."
    )
