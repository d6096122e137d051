"""Probe every remedy as the gate probes scales: its own best base rate, the same seeds, the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradinspect.contracts.optimizers import Adam
from gradinspect.contracts.report.scale_code import ADAM
from gradinspect.contracts.report.sections import ScaleRemedy, WeightGain
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.probes.remedies.gain import rescale_gains
from gradinspect.probes.remedies.layer_normalised import layer_normalised_updates
from gradinspect.probes.remedies.probed_remedy import ProbedRemedy, RemedyInput
from gradinspect.probes.scales.measurement import GroupMeasurement
from gradinspect.probes.verify.gate import Gate
from gradinspect.probes.verify.search import Arm, ArmResult
from gradinspect.probes.verify.training import Start, Trainer
from gradinspect.rules.catalogue.signal import exploding_signal, vanishing_signal
from gradinspect.rules.rule import Rule


def signal_fails(s: SectionInput) -> bool:
    """Check whether the backward signal vanishes or explodes from the last layer call to the first.

    The rules' default thresholds of failure decide, whatever the request's policy says.
    """
    signals = [s.reading.signals[call.order] for call in s.reading.calls if call.order in s.reading.signals]
    if len(signals) < 2 or not signals[-1] > 0:
        return False
    gain = signals[0] / signals[-1]
    return not _fail_level(vanishing_signal.RULE) <= gain <= _fail_level(exploding_signal.RULE)


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

    A remedy that does not apply to the model, or that the budget does not reach, is left out.
    """
    rows: list[ScaleRemedy] = []
    for remedy in _remedies(RemedyInput(s, trainer, starts, measured)):
        result, learned = gate.try_remedy(remedy.arm, steps)
        if result is not None:
            rows.append(_row(gate, result, learned, remedy.gains))
    return tuple(rows)


def _fail_level(rule: Rule) -> float:
    level = rule.default("fail")
    assert level is not None
    assert isinstance(level.value, float)
    return level.value


def _remedies(setup: RemedyInput) -> Iterator[ProbedRemedy]:
    """Make one remedy after the other: the first one measures the model, which costs passes."""
    rescaled = rescale_gains(setup)
    if rescaled is not None:
        yield rescaled
    yield layer_normalised_updates(setup)
    if not setup.optimizer.is_adaptive:
        yield _adam(setup)


def _adam(setup: RemedyInput) -> ProbedRemedy:
    """Make the remedy that divides each element's step by the running size of its gradient (Kingma and Ba 2015)."""
    adam = Adam(type="adam")
    return ProbedRemedy(Arm(ADAM, steps_of(adam).update, [1.0] * len(setup.entries), adam.probe_centre, setup.starts))


def _row(gate: Gate, result: ArmResult, learned: bool, gains: tuple[WeightGain, ...]) -> ScaleRemedy:
    return ScaleRemedy(
        name=result.name,
        learned=learned,
        loss_ratio=finite(result.final / gate.reference),
        base_lr=result.base_lr,
        curve=result.losses,
        gains=gains,
    )
