"""Try every remedy the way the gate tries scales: its own best base rate, the same seeds, the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.sections import MAX_CODE, LrScales, ScaleRemedy
from gradinspect.contracts.request.request import Adam, Sgd
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.probes.remedies import adam, gain, layer_normalised
from gradinspect.probes.scales.measurement import GroupMeasurement
from gradinspect.probes.verify.gate import Gate
from gradinspect.probes.verify.search import Arm, ArmResult
from gradinspect.probes.verify.training import Start, Trainer, Weights
from gradinspect.probes.verify.update import declared_update, layer_normalised_update

# Where the rules vanishing_signal and exploding_signal fail by default; the engine may not read a policy.
VANISHED, EXPLODED = 1e-6, 1e4


def signal_fails(s: SectionInput) -> bool:
    """Whether the backward signal vanishes or explodes between the last layer call and the first."""
    signals = [s.reading.signals[call.order] for call in s.reading.calls if call.order in s.reading.signals]
    if len(signals) < 2 or not signals[-1] > 0:
        return False
    return not VANISHED <= signals[0] / signals[-1] <= EXPLODED


def probe_remedies(
    s: SectionInput,
    trainer: Trainer,
    gate: Gate,
    starts: Sequence[Start],
    measured: Sequence[GroupMeasurement],
    *,
    steps: int,
) -> tuple[ScaleRemedy, ...]:
    """Probe gain rescaling, layer-normalised updates and Adam, in this order.

    Adam is left out where it is what the request declares already; a remedy that the budget does not reach, too.
    """
    declared = s.settings.optimizer or Sgd(type="sgd")
    entries = [entry for m in measured for entry in m.group.entries]
    ones = [1.0] * len(entries)
    found: list[ScaleRemedy] = []
    gains = _own_gains(s, trainer, starts[0])
    if gains:
        rescaled = [_rescaled(start, entries, gains) for start in starts]
        centre = 0.1 if isinstance(declared, Sgd) else adam.CENTRE
        arm = Arm("rescale_gains", declared_update(declared), ones, centre, rescaled)
        result, learned = gate.try_remedy(arm, steps)
        if result is not None:
            plain = optimizer_code(LrScales(verdict="keep_uniform"), optimizer=declared, base_lr=result.base_lr)
            code = gain.gain_code(gains, plain.removeprefix("import torch\n\n"))
            found.append(_row(gate, result, learned, code))
    groups = _places(measured)
    arm = Arm("layer_normalised_updates", layer_normalised_update(groups), ones, layer_normalised.CENTRE, starts)
    result, learned = gate.try_remedy(arm, steps)
    if result is not None:
        found.append(_row(gate, result, learned, layer_normalised.layer_normalised_code(measured, result.base_lr)))
    if isinstance(declared, Sgd):
        arm = Arm("adam", declared_update(Adam(type="adam")), ones, adam.CENTRE, starts)
        result, learned = gate.try_remedy(arm, steps)
        if result is not None:
            found.append(_row(gate, result, learned, adam.adam_code(result.base_lr)))
    return tuple(found)


def _own_gains(s: SectionInput, trainer: Trainer, start: Start) -> dict[ParameterEntry, float]:
    """The gains for the weights that the inspected model has: a probe may have left others in it."""
    with trainer.loaded(start):
        return gain.rescaling_gains(s)


def _rescaled(start: Start, entries: Sequence[ParameterEntry], gains: dict[ParameterEntry, float]) -> Start:
    def weights() -> Weights:
        drawn = start.weights()
        rescaled = [
            value * gains[entry] if entry in gains else value
            for entry, value in zip(entries, drawn.parameters, strict=True)
        ]
        return replace(drawn, parameters=rescaled)

    return replace(start, weights=weights)


def _places(measured: Sequence[GroupMeasurement]) -> list[list[int]]:
    """The groups as positions in the trainer's list of parameters."""
    places: list[list[int]] = []
    at = 0
    for m in measured:
        places.append(list(range(at, at + len(m.group.entries))))
        at += len(m.group.entries)
    return places


def _row(gate: Gate, result: ArmResult, learned: bool, code: str) -> ScaleRemedy:
    return ScaleRemedy(
        name=result.name,
        learned=learned,
        loss_ratio=finite(result.final / gate.reference),
        base_lr=result.base_lr,
        curve=result.losses,
        code=code if len(code) <= MAX_CODE else None,
    )
