"""How far each layer moved in a run, and the plain observations of the first steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from gradinspect.contracts.report.trial import CheckName, TrialCheck
from gradinspect.engine.arrays.deferred import as_floats, length
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.parameters import ParameterEntry, owner_of
from gradinspect.engine.tracing.naming import layer_of_parameters

UNMOVED = 1e-3  # of the median layer's relative change
FEWEST_LAYERS = 3  # of which a median says something


class Movement:
    """The change of the parameters in one run.

    Args:
        s: the section's input.
        start: the values before the run.
    """

    def __init__(self, s: SectionInput, start: Mapping[ParameterEntry, torch.Tensor]) -> None:
        changes = [length(entry.tensor.detach() - value) for entry, value in start.items()]
        sizes = [length(value) for value in start.values()]
        norms = as_floats([*changes, *sizes])
        count = len(start)
        self._moved = dict(zip(start, norms[:count], strict=True))
        self._sizes = dict(zip(start, norms[count:], strict=True))
        layers = {entry.name: layer for entry, layer in layer_of_parameters(s.reading.calls, s.names).items()}
        self._groups: dict[str, list[ParameterEntry]] = {}
        for entry in start:
            layer = layers.get(entry.name, owner_of(entry.name) or entry.name)
            self._groups.setdefault(layer, []).append(entry)

    @property
    def is_finite(self) -> bool:
        """Check that every parameter is still finite."""
        return all(map(math.isfinite, self._moved.values()))

    @property
    def moved_parameters(self) -> int:
        """Return the number of parameters that changed."""
        return sum(change != 0 for change in self._moved.values())

    @property
    def parameters(self) -> int:
        """Return the number of trained parameters."""
        return len(self._moved)

    @property
    def has_moved_every_layer(self) -> bool:
        """Check that something changed in every layer; a bias before a normalisation has no gradient by design."""
        return all(any(self._moved[entry] != 0 for entry in entries) for entries in self._groups.values())

    def unmoved_layers(self) -> tuple[str, ...]:
        """Return the layers that moved less than `UNMOVED` as far as the median layer, relative to their weights."""
        relative = {
            layer: math.hypot(*(self._moved[entry] for entry in entries)) / size
            for layer, entries in self._groups.items()
            if (size := math.hypot(*(self._sizes[entry] for entry in entries))) > 0
        }
        if len(relative) < FEWEST_LAYERS or not self.is_finite:
            return ()
        limit = UNMOVED * median(relative.values())
        return tuple(layer for layer, change in relative.items() if change < limit)


def checks_of(losses: Sequence[float], movement: Movement | None, failure: str | None) -> tuple[TrialCheck, ...]:
    """Make the list of plain observations, in the order of a training step.

    Args:
        losses: of the first run, one a completed step.
        movement: of that run; None where it failed.
        failure: what the model raised in a later step; None if nothing.
    """
    rows = [_check("forward", True), _check("loss_finite", bool(losses) and math.isfinite(losses[0]))]
    rows += [_check("backward", bool(losses)), _check("second_backward", failure is None, failure or "")]
    if movement is not None:
        rows += [
            _check("step_finite", movement.is_finite),
            _check("weights_moved", movement.has_moved_every_layer,
                   f"{movement.moved_parameters} of {movement.parameters} parameters"),
            _check("loss_falls", losses[-1] < losses[0], f"{losses[0]:.4g} → {losses[-1]:.4g}"),
        ]  # fmt: skip
    return tuple(rows)


def _check(name: CheckName, passed: bool, detail: str = "") -> TrialCheck:
    return TrialCheck(name=name, passed=passed, detail=detail)
