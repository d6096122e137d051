"""Gradients against training steps: a short run with the declared optimizer on the first pass's batch.

The parameters are moved in place, as training moves them, and restored afterwards bit for bit. Every step has the same
batch, so the trace shows what the optimizer does to the gradients and not what new data does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gradinspect.contracts.optimizers import ASSUMED, Optimizer
from gradinspect.contracts.report.sections import TimeDecay, TracePoint
from gradinspect.engine.arrays.deferred import as_floats, length
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.first_order.replay import replaying, run_model
from gradinspect.engine.network.derivatives import parameter_gradients
from gradinspect.engine.network.optimizers import UpdateState, steps_of
from gradinspect.engine.network.parameters import ParameterEntry, owner_of
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.rows.depth_decay import FEWEST_LAYERS as FEWEST_POINTS
from gradinspect.engine.rows.depth_decay import fit_line
from gradinspect.engine.rows.layer_rows import finite, ratio
from gradinspect.engine.tracing.naming import layer_of_parameters

STEPS = 30  # chosen: the slope's standard error is then under a fiftieth of the residual's size
STEP_PASSES = 1.5  # of the first pass's time


def training_trace_section(s: SectionInput) -> SectionResult:
    """Train for some steps and fit log10 of the total gradient norm against them.

    Without a declared optimizer, SGD with its default rate is used, and the section says so.

    Cost: `STEPS` training steps; the parameters twice more in memory, and the optimizer's state.
    """
    entries = [entry for entry in s.parameters if entry in s.reading.gradients]
    reason = refused(s.budget, FEWEST_POINTS * STEP_PASSES * s.pass_seconds)
    if reason is not None:
        return SectionResult(TimeDecay(status="undetermined", reason=reason))
    groups = _groups(s, entries)
    declared = s.settings.optimizer
    with replaying(s), _restored(entries), seeded(s.seed, s.device), torch.enable_grad():
        trace, stopped = _train(s, entries, groups, declared or ASSUMED)
    return SectionResult(_fitted(trace, list(groups), stopped, declared=declared is not None))


def _groups(s: SectionInput, entries: Sequence[ParameterEntry]) -> dict[str, list[int]]:
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(layer_of.get(entry, owner_of(entry.name) or entry.name), []).append(index)
    return groups


@contextmanager
def _restored(entries: Sequence[ParameterEntry]) -> Iterator[None]:
    values = [entry.tensor.detach().clone() for entry in entries]
    try:
        yield
    finally:
        with torch.no_grad():
            for entry, value in zip(entries, values, strict=True):
                entry.tensor.copy_(value)


def _train(
    s: SectionInput, entries: Sequence[ParameterEntry], groups: dict[str, list[int]], declared: Optimizer
) -> tuple[list[TracePoint], str | None]:
    """Return the trace, and why it ended early."""
    update, state = steps_of(declared).update, UpdateState()
    tensors = [entry.tensor.detach() for entry in entries]  # the same memory, outside the graph
    rates = [declared.lr] * len(tensors)
    trace: list[TracePoint] = []
    unit = STEP_PASSES * s.pass_seconds
    for step in range(STEPS):
        lacking = refused(s.budget, unit)
        if lacking is not None:
            return trace, lacking
        started = time.perf_counter()
        loss = s.loss_of(run_model(s, s.batch.inputs))
        gradients = parameter_gradients(loss, entries)
        slopes = [torch.zeros_like(x) if slope is None else slope for x, slope in zip(tensors, gradients, strict=True)]
        before = [tensor.clone() for tensor in tensors]
        sums = [loss.detach(), *map(length, slopes)]  # before the update, which may use their memory
        with torch.no_grad():
            update(tensors, slopes, rates, state)
        sums += [*map(length, before), *(length(x - value) for x, value in zip(tensors, before, strict=True))]
        height, *norms = as_floats(sums)
        count = len(tensors)
        trace.append(_point(step, height, norms[:count], norms[count : 2 * count], norms[2 * count :], groups))
        if trace[-1].loss is None or trace[-1].total_grad_norm is None:
            return trace, f"the run left the finite numbers at step {step}"
        unit = time.perf_counter() - started
        s.progress((step + 1) / STEPS)
    return trace, None


def _point(
    step: int,
    loss: float,
    slopes: Sequence[float],
    weights: Sequence[float],
    moves: Sequence[float],
    groups: dict[str, list[int]],
) -> TracePoint:
    """Make one row of the trace, from l2 norms of each parameter's gradient, value and step."""
    return TracePoint(
        step=step,
        loss=finite(loss),
        total_grad_norm=finite(math.hypot(*slopes)),
        layer_grad_norms=tuple(finite(_over(slopes, group)) for group in groups.values()),
        layer_update_to_weight=tuple(ratio(_over(moves, group), _over(weights, group)) for group in groups.values()),
    )


def _over(norms: Sequence[float], indices: Sequence[int]) -> float:
    return math.hypot(*(norms[index] for index in indices))


def _fitted(trace: list[TracePoint], layers: list[str], stopped: str | None, *, declared: bool) -> TimeDecay:
    points = [
        (float(point.step), math.log10(point.total_grad_norm))
        for point in trace
        if point.total_grad_norm is not None and point.total_grad_norm > 0
    ]
    assumed = None if declared else f"no optimizer was declared; SGD with lr {ASSUMED.lr} was used"
    if len(points) < FEWEST_POINTS:
        reason = stopped or f"{len(points)} steps have a gradient that is finite and not zero"
        return TimeDecay(
            status="undetermined", reason=f"{reason}; a line needs {FEWEST_POINTS} steps", steps_used=len(points),
            layers=tuple(layers), trace=tuple(trace),
        )  # fmt: skip
    line = fit_line(*zip(*points, strict=True))
    return TimeDecay(
        reason="; ".join(note for note in (assumed, stopped) if note is not None) or None,
        slope_log10_per_step=line.slope,
        stderr=line.stderr,
        r2=line.r2,
        steps_used=len(points),
        layers=tuple(layers),
        trace=tuple(trace),
    )
