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
from gradinspect.contracts.report.trial import Trial

# Chosen: random weights give at least the loss of uniform predictions; over 128 samples of 10 classes it varies by
# a few percent.
TRAINED_BELOW = 0.8
_LOSS = ("", -1)  # in place of a call, where none follows
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
    trial: Trial | None = None

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
            trial=measured.trial,
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
    def has_graph(self) -> bool:
        """Whether the rows know their neighbours; reports of earlier releases have no graph."""
        return any(row.on_trunk is not None for row in self.layers)

    @cached_property
    def trunk(self) -> tuple[LayerMeasurement, ...]:
        """Layer calls on the longest path to the loss; all of them where no graph is known."""
        return tuple(row for row in self.layers if row.on_trunk) if self.has_graph else self.layers

    @cached_property
    def branches(self) -> tuple[tuple[LayerMeasurement, ...], ...]:
        """Chains of layer calls that join the trunk by its side, nearest the input first."""
        if not self.has_graph:
            return ()
        aside = {_key(row): row for row in self.layers if not row.on_trunk}
        next_of = {key: self._only_successor(row, aside) for key, row in aside.items()}
        continued = {key for key in next_of.values() if key is not None}
        chains = []
        for key in aside:
            if key in continued:
                continue
            chain: list[LayerMeasurement] = []
            place: tuple[str, int] | None = key
            while place is not None:
                chain.append(aside[place])
                place = next_of[place]
            chains.append(tuple(chain))
        return tuple(chains)

    @cached_property
    def recurrences(self) -> tuple[LayerMeasurement, ...]:
        """First calls of the chains in which the same weights are applied again."""
        return tuple(row for row in self.layers if row.recurrence_calls > 1)

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

    def _only_successor(
        self, row: LayerMeasurement, aside: dict[tuple[str, int], LayerMeasurement]
    ) -> tuple[str, int] | None:
        """Return the next call of a branch; None where it joins the trunk or divides."""
        if len(row.successors) != 1:
            return None
        key = (row.successors[0].name, row.successors[0].call)
        return key if key in aside and aside[key].depth > row.depth else None

    def inputs_of(self, row: LayerMeasurement) -> list[LayerMeasurement]:
        """Return the nearest layer calls before a call."""
        return [self._row_of[key] for other in row.inputs if (key := (other.name, other.call)) in self._row_of]

    def successors_of(self, row: LayerMeasurement) -> list[LayerMeasurement]:
        """Return the nearest layer calls behind a call."""
        return [self._row_of[key] for other in row.successors if (key := (other.name, other.call)) in self._row_of]

    def has_way_around(self, row: LayerMeasurement) -> bool:
        """Check whether a call before this one also reaches what takes its output: the skip of a residual branch.

        True without a graph, where it cannot be seen.
        """
        if not self.has_graph:
            return True
        place = (row.name, row.call)
        targets = {(other.name, other.call) for other in row.successors} or {_LOSS}
        return any(targets & self._targets_of(earlier) for earlier in self._before(place) if earlier != place)

    @cached_property
    def _row_of(self) -> dict[tuple[str, int], LayerMeasurement]:
        return {_key(row): row for row in self.layers}

    def _targets_of(self, place: tuple[str, int]) -> set[tuple[str, int]]:
        row = self._row_of[place]
        return {(other.name, other.call) for other in row.successors} or {_LOSS}

    def _before(self, place: tuple[str, int], most: int = 8) -> list[tuple[str, int]]:
        """Return the calls on the chain of inputs before a call, through at most `most` calls in a row."""
        found: list[tuple[str, int]] = []
        waiting = [place]
        for _ in range(most):
            waiting = [
                (other.name, other.call)
                for key in waiting
                for other in self._row_of[key].inputs
                if (other.name, other.call) in self._row_of and (other.name, other.call) not in found
            ]
            waiting = list(dict.fromkeys(waiting))
            found += waiting
        return found

    def is_norm(self, layer: str) -> bool:
        """Check whether a layer normalises (BatchNorm2d, LayerNorm, native_layer_norm …)."""
        return is_norm_kind(self.kind_of.get(layer, ""))

    def is_embedding(self, parameter: ParameterMeasurement) -> bool:
        """Check whether a parameter is an embedding table, of which a batch uses some rows only."""
        return "embedding" in self.kind_of.get(parameter.layer, "").lower()


def _key(row: LayerMeasurement) -> tuple[str, int]:
    return row.name, row.call


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
