"""The request for one inspection of one model. Every field but the model has a default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from gradinspect.contracts.document import WITHOUT_NUL, Digest, Document, Finite, ModelName, located, without_nul
from gradinspect.contracts.optimizers import Optimizer, Positive
from gradinspect.contracts.request.data import Data
from gradinspect.contracts.request.fitting import NO_PARAMETERS, misfit, target_misfit
from gradinspect.contracts.sections import DIAGNOSTICS, Diagnostic, SectionRecord
from gradinspect.contracts.sources import AnySource, ExportedSource, SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import FloatType

Loss = Literal["cross_entropy", "mse", "l1", "huber", "bce_with_logits", "nll", "output_mean", "random_cotangent"]
Device = Literal["auto", "cpu", "cuda"]
Mode = Literal["train", "eval"]


class Precision(Document):
    """The precision computed in, and the precision that training is meant to use."""

    compute: FloatType | None = Field(
        default=None, description="Left out: float32 for specs, the parameters' own dtype for uploads."
    )
    intended: FloatType | None = None
    loss_scale: Positive = 1.0


class LrScalesRequest(Document):
    """How the learning-rate suggestion is to be made."""

    verify: bool = True
    probe_steps: Annotated[int, Field(ge=10, le=2000)] = 100
    seeds: Annotated[int, Field(ge=1, le=16)] = 3
    max_steps: Annotated[int, Field(ge=100, le=10_000_000)] = Field(
        default=100_000, description="Training steps that all probes together may run."
    )
    max_seconds: Annotated[Finite, Field(gt=0, le=86_400)] = Field(
        default=240.0, description="Wall seconds that all probes together may take."
    )


class TrialRequest(Document):
    """The budget of the learning trial, and again of the prescription where one follows."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2_000, description="Training steps of all runs together."
    )
    seconds: Annotated[Finite, Field(gt=0, le=86_400)] = Field(default=20.0, description="Wall seconds of all runs.")


def _trial_form(value: object) -> str | None:
    if isinstance(value, dict | TrialRequest):
        return "(budget)"
    return "(word)" if value in ("auto", "off") else None


TrialOption = Annotated[
    Annotated[Literal["auto", "off"], Tag("(word)")] | Annotated[TrialRequest, Tag("(budget)")],
    Discriminator(
        _trial_form,
        custom_error_type="trial_form",
        custom_error_message="Input should be 'auto', 'off' or an object such as {\"steps\": 2000, \"seconds\": 20}",
    ),
]


def _asked(value: object) -> str:
    return "(no)" if value is False else "(asked)"


LrScalesOption = Annotated[
    Annotated[LrScalesRequest, Tag("(asked)")] | Annotated[Literal[False], Tag("(no)")], Discriminator(_asked)
]


class InspectionSettings(Document):
    """What is computed and how; the same for an inspection over HTTP, from the CLI and in a notebook."""

    data: Data | None = Field(default=None, description="Left out: synthetic, from the model's input and the loss.")
    loss: Loss = "cross_entropy"
    optimizer: Optimizer | None = None
    precision: Precision = Precision()
    diagnostics: Annotated[tuple[Diagnostic, ...], Field(min_length=1, max_length=len(DIAGNOSTICS))] = (
        "gradients",
        "signals",
    )
    lr_scales: LrScalesOption = Field(default=False, description="`{}` asks for a suggestion with all defaults.")
    trial: TrialOption = Field(
        default="auto",
        description="Train the model on its batch to see whether it learns. `auto`: at most a quarter of the time, "
        "20 s and 2,000 steps.",
    )
    mode: Mode = Field(
        default="train", description="Of an exported program, by default the mode in which it was exported."
    )
    seeds: Annotated[int, Field(ge=1, le=32)] = Field(
        default=1, description="Independent initialisations (specs) or batches (uploads) to average and fit over."
    )
    device: Device = "auto"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    def asks_for(self, record: SectionRecord) -> bool:
        """Check whether a section that takes further passes was asked for."""
        by_field = {"lr_scales": self.lr_scales is not False, "trial": self.trial != "off"}
        return record.stage in self.diagnostics or by_field.get(record.name, False)

    @model_serializer(mode="wrap")
    def _without_default_mode(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:  # Any: JSON
        """Leave out a mode that was not asked for: an exported program has one, and refuses the other."""
        document: dict[str, Any] = write(self)
        if "mode" not in self.model_fields_set:
            document.pop("mode", None)
        return document

    @model_validator(mode="after")
    def _distinct(self) -> InspectionSettings:
        if len(set(self.diagnostics)) != len(self.diagnostics):
            raise located(type(self).__name__, ("diagnostics",), "one section is named twice; name it once")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> InspectionSettings:
        problem = target_misfit(self.loss, self.data)
        if problem is not None:
            raise located(type(self).__name__, ("data", *problem[0]), problem[1])
        return self


class InlineModel(Document):
    """A model given in the request itself."""

    spec: ModelSpec
    name: ModelName | None = Field(default=None, description="Shown instead of the id; the same spec may have several.")

    @property
    def source(self) -> AnySource:
        """Source that the fields name."""
        return SpecSource(spec=self.spec)


class InlineExported(Document):
    """An uploaded exported program, by its digest."""

    exported: Digest
    name: ModelName | None = None

    @property
    def source(self) -> AnySource:
        """Source that the fields name."""
        return ExportedSource(exported=self.exported)


MODEL_ID = re.compile(r"^mdl_[0-9a-f-]{36}$")
ModelId = Annotated[str, Field(pattern=MODEL_ID.pattern)]


def _model_form(value: object) -> str:
    if isinstance(value, str):
        return "(id)"
    return "(exported)" if isinstance(value, InlineExported) or _has_exported(value) else "(inline)"


def _has_exported(value: object) -> bool:
    return isinstance(value, dict) and "exported" in value


RequestedModel = Annotated[
    Annotated[ModelId, Tag("(id)")]
    | Annotated[InlineModel, Tag("(inline)")]
    | Annotated[InlineExported, Tag("(exported)")],
    Discriminator(_model_form),
]
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=128, json_schema_extra=WITHOUT_NUL), AfterValidator(without_nul)]


class InspectionRequest(InspectionSettings):
    """The body of `POST /v1/inspections`."""

    model: RequestedModel
    policy: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _goes_together(self) -> InspectionRequest:
        if not isinstance(self.model, InlineModel):
            return self
        if self.model.spec.plan.parameters == 0:
            raise located("InspectionRequest", ("model", "spec", "layers"), NO_PARAMETERS)
        problem = misfit(self.model.spec, self.data, loss=self.loss)
        if problem is not None:
            raise located("InspectionRequest", ("data", *problem[0]), problem[1])
        return self

    def settings(self) -> InspectionSettings:
        """Return the part that the engine reads: no ids, no labels, no policy."""
        fields = InspectionSettings.model_fields
        return InspectionSettings.model_construct(
            _fields_set=self.model_fields_set & fields.keys(), **{name: getattr(self, name) for name in fields}
        )
