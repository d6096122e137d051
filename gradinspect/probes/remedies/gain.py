"""rescale_gains: multiply weights so that each layer passes the backward signal on at its own size (χ1 ≈ 1).

Layer by layer from the input: σ_w²·E[φ′(z)²] = 1, with the slopes measured on the batch under the weights rescaled so
far. In place, so it works for an uploaded file as well as for a fresh initialisation. The first layer and the head are
not changed: χ1 has no meaning before the first nonlinearity, and a larger head is a larger loss.
Source: Mishkin and Matas 2016, "All you need is a good init" (LSUV), with χ1 (Schoenholz et al. 2017, eq. 10) in
place of unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from gradinspect.contracts.report.scale_code import RESCALE_GAINS
from gradinspect.contracts.report.sections import WeightGain
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying, run_model
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.forward import ForwardRecorder
from gradinspect.engine.tracing.operator_names import ATEN_AFFINE
from gradinspect.engine.tracing.theory import weight_variance
from gradinspect.probes.remedies.probed_remedy import ProbedRemedy, RemedyInput
from gradinspect.probes.verify.search import Arm
from gradinspect.probes.verify.training import Start, Weights

LARGEST = 100.0  # chosen: a weight that is further off is in a layer that the theory does not describe
WORTH_CHANGING = 0.02  # chosen: within two percent of 1 a gain is the batch's own noise


def rescale_gains(setup: RemedyInput) -> ProbedRemedy | None:
    """Make the remedy; None where no weight needs rescaling.

    The gains are measured on the weights that the inspected model has, which earlier probes may have overwritten.
    """
    with setup.trainer.loaded(setup.starts[0]):
        gains = rescaling_gains(setup.s)
    if not gains:
        return None
    optimizer, entries = setup.optimizer, setup.entries
    arm = Arm(
        name=RESCALE_GAINS,
        update=steps_of(optimizer).update,
        scales=[1.0] * len(entries),
        centre=optimizer.probe_centre,
        starts=[_rescaled(start, entries, gains) for start in setup.starts],
    )

    return ProbedRemedy(arm, tuple(WeightGain(parameter=entry.name, gain=gain) for entry, gain in gains.items()))


def rescaling_gains(s: SectionInput) -> dict[ParameterEntry, float]:
    """Measure the factor of every weight that is to change.

    Returns:
        Weights to factors; empty where every layer passes the signal on already, or no factor can be measured.

    Cost: per rescaled layer one forward pass with its summary; the weights are changed in place and restored.
    """
    gains: dict[ParameterEntry, float] = {}
    reading = s.reading
    before = {reading.following[order]: order for order in sorted(reading.direct) if order in reading.following}
    saved = {entry: entry.tensor.detach().clone() for entry in s.parameters}
    try:
        for order in sorted(before):
            call = reading.calls[order]
            weight = _weight(call)
            if weight is None or weight in gains or not s.budget.allows(s.pass_seconds) or not _is_hidden(s, order):
                continue
            gain = _gain(_forward(s), before[order], order)
            if gain is not None and abs(math.log(gain)) > WORTH_CHANGING:
                gains[weight] = float(f"{min(max(gain, 1 / LARGEST), LARGEST):.6g}")
                with torch.no_grad():
                    weight.tensor.mul_(gains[weight])
    finally:
        with torch.no_grad():
            for entry, value in saved.items():
                entry.tensor.copy_(value)
    return gains


def _rescaled(start: Start, entries: Sequence[ParameterEntry], gains: Mapping[ParameterEntry, float]) -> Start:
    def weights() -> Weights:
        drawn = start.weights()
        rescaled = [
            value * gains[entry] if entry in gains else value
            for entry, value in zip(entries, drawn.parameters, strict=True)
        ]
        return replace(drawn, parameters=rescaled)

    return replace(start, weights=weights)


def _forward(s: SectionInput) -> list[LayerCall]:
    recorder = ForwardRecorder(s.parameters, s.batch.inputs)
    with replaying(s), torch.enable_grad(), seeded(s.seed, s.device), recorder:
        run_model(s, s.batch.inputs)
    if all(call.has_met_data for call in s.reading.calls):  # the calls that the first pass chose
        return [call for call in recorder.calls if call.has_met_data]
    return recorder.calls


def _gain(calls: list[LayerCall], before: int, order: int) -> float | None:
    """Return 1/√χ1 between two calls; None where the theory does not apply, or no signal passes."""
    previous, call = calls[before], calls[order]
    variance = weight_variance(call)
    slope = previous.activation.slope.mean_square if previous.activation is not None else 1.0
    if variance is None or not math.isfinite(slope) or not variance * slope > 0:
        return None
    return 1.0 / math.sqrt(variance * slope)


def _weight(call: LayerCall) -> ParameterEntry | None:
    weights = [entry for entry in call.entries if entry.tensor.dim() >= 2 and entry.requires_grad]
    return weights[0] if call.operation in ATEN_AFFINE and len(weights) == 1 else None


def _is_hidden(s: SectionInput, order: int) -> bool:
    return order in s.reading.following
