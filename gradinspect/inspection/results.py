"""The results of the passes and sections of one inspection, and their assembly into one document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gradinspect.contracts.document import Document
from gradinspect.contracts.report.losses import MAX_OUTPUTS, LossTerm, Outputs
from gradinspect.contracts.report.operations import Fault
from gradinspect.contracts.report.report import Environment, MeasuredSummary, Measurements, SelfCheck
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.contracts.report.setup import Setup
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.arrays.precision import precision_section
from gradinspect.engine.checks.self_checks import run_checks
from gradinspect.engine.first_order.context import SectionInput, SectionResult
from gradinspect.engine.first_order.loss_terms import loss_terms
from gradinspect.engine.first_order.opened_gates import Opened
from gradinspect.engine.locate.setup import setup_of
from gradinspect.engine.network.autocast import HALF
from gradinspect.engine.network.losses import expected_initial_loss
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.rows.averages import average_layers, average_parameters
from gradinspect.engine.rows.depth_decay import depth_decay
from gradinspect.engine.rows.layer_rows import finite, layer_rows, parameter_rows
from gradinspect.engine.rows.seed_spread import seed_spread
from gradinspect.engine.tracing.naming import CallName
from gradinspect.engine.tracing.output_use import OutputUse
from gradinspect.engine.tracing.readings import PassReading


@dataclass(frozen=True)
class FirstPass:
    """The numbers that only the first pass of an inspection gives.

    Attributes:
        dtype: of the parameters, as in "float32".
        digest: of the batch.
        is_synthetic: anything of the batch was drawn.
        sampled_layers: layer calls of which only a sample of the output was read.
        expected_loss: of a model that knows nothing; None for a custom loss.
    """

    dtype: str
    digest: str
    is_synthetic: bool
    sampled_layers: int
    expected_loss: float | None
    checks: tuple[SelfCheck, ...]
    precision: PrecisionSection
    outputs: Outputs
    losses: tuple[LossTerm, ...]
    setup: Setup | None

    @classmethod
    def of(cls, s: SectionInput, *, has_named_loss: bool) -> FirstPass:
        """Read it from the first pass; the self-checks cost further passes."""
        settings, reading = s.settings, s.reading
        dtype = parameter_dtype(reading, s.parameters)
        expected = expected_initial_loss(settings.loss, reading.output_shape, s.target) if has_named_loss else None
        return cls(
            dtype=str(dtype).removeprefix("torch."),
            digest=s.batch.digest,
            is_synthetic=s.batch.synthetic,
            sampled_layers=sum(call.sampled for call in reading.calls),
            expected_loss=expected,
            checks=tuple(run_checks(s, HALF.get(settings.precision.compute or "", dtype))),
            precision=precision_of(reading, settings, dtype),
            outputs=outputs_of(reading.outputs),
            losses=loss_terms(s),
            setup=setup_of(s),
        )


class Results:
    """Numbers of one inspection, added pass by pass and section by section.

    Args:
        settings: of the request.

    Attributes:
        first: of the first pass; None before it.
        faults: operations at which the first pass breaks.
        prescription: changes with which the model learns; None before it is made.
    """

    def __init__(self, settings: InspectionSettings) -> None:
        self.first: FirstPass | None = None
        self.prescription: Prescription | None = None
        self._settings = settings
        self.faults: tuple[Fault, ...] = ()
        self._losses: list[float] = []
        self._layers: list[list[LayerMeasurement]] = []
        self._parameters: list[list[ParameterMeasurement]] = []
        self._sections: dict[str, Document] = {}
        self._of_parameters: dict[str, dict[str, float | None]] = {}

    def add_pass(
        self,
        reading: PassReading,
        names: Sequence[CallName],
        parameters: ParameterIndex,
        opened: Opened | None = None,
    ) -> None:
        """Add the rows of one pass.

        Args:
            reading: of the pass.
            names: of its layer calls.
            parameters: of the model.
            opened: the pass with zero weights opened, if there was one.
        """
        rows = parameter_rows(reading, names, parameters, self._settings.precision.loss_scale)
        self._losses.append(reading.loss)
        self._parameters.append(rows)
        self._layers.append(layer_rows(reading, names, parameters, rows, opened))

    def add_section(self, name: str, result: SectionResult) -> None:
        """Add a section, and what it says about single parameters."""
        self._sections[name] = result.section
        for parameter, fields in result.parameters.items():
            self._of_parameters.setdefault(parameter, {}).update(fields)

    def measurements(self, environment: Environment) -> Measurements:
        """Average the rows over the passes and make the document."""
        assert self.first is not None
        parameters = _with_fields(average_parameters(self._parameters), self._of_parameters)
        layers = average_layers(self._layers, parameters)
        return Measurements(
            environment=environment,
            summary=self._summary(self.first, layers, parameters),
            depth_decay=depth_decay(self._layers) if "signals" in self._settings.diagnostics else None,
            layers=layers,
            parameters=parameters,
            precision=self.first.precision,
            self_checks=self.first.checks,
            faults=self.faults,
            spread=seed_spread(self._layers),
            outputs=self.first.outputs,
            losses=self.first.losses,
            setup=self.first.setup,
            prescription=self.prescription,
        ).model_copy(update=self._sections)

    def _summary(
        self, first: FirstPass, layers: Sequence[LayerMeasurement], parameters: Sequence[ParameterMeasurement]
    ) -> MeasuredSummary:
        squares = [row.grad_norm**2 for row in parameters if row.grad_norm is not None]
        losses_not_finite = sum(not math.isfinite(loss) for loss in self._losses)
        gradients_not_finite = sum(row.nan_count + row.inf_count for row in parameters)
        return MeasuredSummary(
            loss=finite(math.fsum(self._losses) / len(self._losses)),
            expected_initial_loss=first.expected_loss,
            parameters=sum(row.numel for row in parameters),
            layers=len(layers),
            total_grad_norm=finite(math.sqrt(math.fsum(squares))) if not gradients_not_finite else None,
            nonfinite_count=losses_not_finite + sum(row.nonfinite_count for row in layers) + gradients_not_finite,
        )


def parameter_dtype(reading: PassReading, parameters: ParameterIndex) -> torch.dtype:
    """Return the dtype of the first parameter that has a gradient."""
    trained = (entry.tensor.dtype for entry in parameters if entry in reading.gradients)
    return next(trained, torch.get_default_dtype())


def precision_of(reading: PassReading, settings: InspectionSettings, dtype: torch.dtype) -> PrecisionSection:
    """Compute the section on low precision from the gradients of one pass."""
    gradients = (
        (gradient.distribution, gradient.moments.numel, gradient.moments.abs_max)
        for gradient in reading.gradients.values()
        if gradient.distribution is not None
    )
    compute = settings.precision.compute or str(dtype).removeprefix("torch.")
    return precision_section(gradients, settings.precision, compute)


def outputs_of(use: OutputUse) -> Outputs:
    """Return the names of a model's outputs, as many as a report holds."""
    used, unused = (tuple(name[:256] for name in names[:MAX_OUTPUTS]) for names in (use.used, use.unused))
    return Outputs(used=used, unused=unused)


def _with_fields(
    rows: tuple[ParameterMeasurement, ...], fields: Mapping[str, Mapping[str, float | None]]
) -> tuple[ParameterMeasurement, ...]:
    return tuple(
        row.model_copy(update={key: finite(value) for key, value in fields[row.name].items()})
        if row.name in fields
        else row
        for row in rows
    )
