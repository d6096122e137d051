"""Reports that clients measured, on their way to a service: one report, and the step of a training run it is of."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gradinspect.contracts.document import Count, Document, Finite, ModelName
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import Number
from gradinspect.contracts.request.request import InspectionSettings, LabelKey, LabelValue

RUN_ID = r"^run_[0-9a-f-]{36}$"
RunId = Annotated[str, Field(pattern=RUN_ID)]
MAX_RATES = 64  # chosen: parameter groups beyond these have the rates of a suggestion, which the report holds


class TrainingStep(Document):
    """What the trainer did at a watched step, which no inspection outside the run can know."""

    learning_rates: Annotated[tuple[Annotated[Finite, Field(ge=0)], ...], Field(max_length=MAX_RATES)] = Field(
        default=(), description="Of each parameter group, before the step."
    )
    applied_grad_norm: Number = Field(
        default=None, description="l2 norm of the gradients that the optimizer received: after unscaling and clipping."
    )
    loss_scale: Annotated[Finite, Field(gt=0)] = Field(default=1.0, description="By which the loss was multiplied.")
    micro_batches: Annotated[int, Field(ge=1, le=2**31)] = Field(
        default=1, description="Backward passes of the step; the report is of the first."
    )


class ReportPush(Document):
    """The body of `POST /v1/reports`."""

    report: Report = Field(description="Judged again: only its numbers and names are used.")
    name: ModelName | None = Field(default=None, description="Of the model; left out: the report's.")
    settings: InspectionSettings | None = Field(default=None, description="What was asked for, where it is known.")
    policy: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}
    run: RunId | None = Field(default=None, description="A run of `POST /v1/runs` that the report is a step of.")
    step: Count | None = Field(default=None, description="Optimizer steps before this one.")
    training: TrainingStep | None = Field(default=None, description="Goes with `step`.")

    @model_validator(mode="after")
    def _goes_together(self) -> ReportPush:
        if self.step is None and (self.run is not None or self.training is not None):
            raise ValueError("run and training go with step")
        return self
