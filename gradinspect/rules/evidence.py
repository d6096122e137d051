"""The input of rules: the measurements of one inspection, and the declared optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.losses import LossTerm
from gradinspect.contracts.report.operations import Fault
from gradinspect.contracts.report.report import MeasuredSummary, Measurements
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.report.sections import Curvature, Noise, PrecisionSection, ScalesVerdict, TimeDecay
from gradinspect.contracts.report.setup import Setup

# Chosen: random weights give at least the loss of uniform predictions; over 128 samples of 10 classes it varies by
# a few percent.
TRAINED_BELOW = 0.8
TRAINED = "the loss is below that of a model that knows nothing: these weights are trained, not initial"

_NO_SETUP = Setup()


@dataclass(frozen=True)
class Evidence:
    """Measurements in the form that rules ask for. Sections that could not be computed are None."""

    layers: tuple[LayerMeasurement, ...]
    parameters: tuple[ParameterMeasurement, ...]
    summary: MeasuredSummary
    precision: PrecisionSection | None = None
    noise: Noise | None = None
    curvature: Curvature | None = None
    optimizer: Optimizer | None = None
    scales_verdict: ScalesVerdict | None = None
    losses: tuple[LossTerm, ...] = ()
    faults: tuple[Fault, ...] = ()
    setup: Setup = _NO_SETUP
    time_decay: TimeDecay | None = None
    is_synthetic: bool = False

    @staticmethod
    def of(measured: Measurements, optimizer: Optimizer | None) -> Evidence:
        """Collect what rules read from measurements, and the declared optimizer."""
        precision, noise, curvature = measured.precision, measured.noise, measured.curvature
        return Evidence(
            layers=tuple(sorted(measured.layers, key=lambda row: row.depth)),
            parameters=measured.parameters,
            summary=measured.summary,
            precision=precision if precision is not None and precision.status == "measured" else None,
            noise=noise if noise is not None and noise.status == "measured" else None,
            curvature=curvature if curvature is not None and curvature.status == "measured" else None,
            optimizer=optimizer,
            losses=measured.losses,
            scales_verdict=measured.lr_scales.verdict if measured.lr_scales is not None else None,
            faults=measured.faults,
            setup=measured.setup or _NO_SETUP,
            time_decay=measured.time_decay,
            is_synthetic=measured.environment.synthetic_data,
        )

    @cached_property
    def kind_of(self) -> dict[str, str]:
        """Map layer name → kind."""
        return {row.name: row.kind for row in self.layers}

    @cached_property
    def by_name(self) -> dict[str, ParameterMeasurement]:
        """Map parameter name → row."""
        return {row.name: row for row in self.parameters}

    @cached_property
    def depth_of(self) -> dict[str, int]:
        """Map parameter name → depth of the last layer call that uses it."""
        return {name: row.depth for row in self.layers for name in row.parameters}

    @cached_property
    def signalled(self) -> tuple[LayerMeasurement, ...]:
        """Layer calls that get a signal, nearest the input first."""
        return tuple(row for row in self.layers if row.signal is not None and row.signal.norm)

    @cached_property
    def weights(self) -> tuple[ParameterMeasurement, ...]:
        """Trained weights with two or more axes.

        Biases and the parameters of norms are left out: they start at 0 or 1 whatever the size of the layer, so the
        ratio of gradient to value has no meaning. Weights that are exactly zero are left out, too.
        """
        return tuple(
            row
            for row in self.parameters
            if row.status == "trained" and _is_matrix(row) and row.weight_norm and not self.is_norm(row.layer)
        )

    @cached_property
    def is_trained(self) -> bool:
        """Whether the loss is below that of uniform predictions, so that the weights are not an initialisation."""
        loss, expected = self.summary.loss, self.summary.expected_initial_loss
        return loss is not None and bool(expected) and loss < TRAINED_BELOW * (expected or 0.0)

    def is_norm(self, layer: str) -> bool:
        """Check whether a layer normalises (BatchNorm2d, LayerNorm, native_layer_norm …)."""
        return is_norm_kind(self.kind_of.get(layer, ""))

    def is_embedding(self, parameter: ParameterMeasurement) -> bool:
        """Check whether a parameter is an embedding table, of which a batch uses some rows only."""
        return "embedding" in self.kind_of.get(parameter.layer, "").lower()


def is_norm_kind(kind: str) -> bool:
    """Check whether a layer kind is a normalisation."""
    return "norm" in kind.lower()


def is_batch_norm_kind(kind: str) -> bool:
    """Check whether a layer kind normalises each channel over the batch."""
    return "batch" in kind.lower() and is_norm_kind(kind)


def _is_matrix(row: ParameterMeasurement) -> bool:
    """Check for two or more axes longer than 1; scales or shifts of shape (channels, 1, 1) are vectors."""
    return len(row.shape) == 2 or (len(row.shape) > 2 and row.numel > max(row.shape))


def functions_of(row: LayerMeasurement) -> frozenset[str]:
    """Return the nonlinearities that take a call's output, alone or joined with others'."""
    joined = row.joined_nonlinearity.split(", ") if row.joined_nonlinearity is not None else []
    return frozenset([row.nonlinearity] if row.nonlinearity is not None else joined)


def names(rows: Sequence[LayerMeasurement]) -> tuple[str, ...]:
    """Return the distinct names of layer calls, in order, as many as a finding can hold."""
    return tuple(dict.fromkeys(row.name for row in rows))[:1024]
