"""Curvature of the loss: along the gradient, on average over directions, and along the steepest one.

For the whole model, and for the parameters of one layer and single parameters with everything else held still (the
diagonal blocks of the Hessian). What matters most is computed first; what the budget refuses is left out by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from gradinspect.contracts.report.sections import Curvature, LayerCurvature
from gradinspect.engine.arrays.deferred import as_floats, inner_product
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.hutchinson import Trace, signs, trace_of
from gradinspect.engine.curvature.lanczos import Eigenvalue, random_start, top_eigenvalue
from gradinspect.engine.curvature.symmetry import PairedProduct, contradiction, paired_product
from gradinspect.engine.first_order.context import Budget, SectionInput, SectionResult, refused
from gradinspect.engine.first_order.memory import out_of_memory
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from gradinspect.engine.network.parameters import owner_of
from gradinspect.engine.network.reproducible import generator
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.engine.tracing.naming import layer_of_parameters

FIRST_PRODUCT = 3.2  # passes, as benchmarks/curvature.py measures them: the graph, and one product with it
PROBES = 16  # chosen: the standard error is then a quarter of one probe's spread
LANCZOS_STEPS = 30
TOLERANCE = 1e-3  # of the residual; the eigenvalue's own error is of its square over the gap to the next one
PATIENCE = 30.0  # seconds that the blocks may take where nothing limits the time; chosen
FEWEST_STEPS = 4  # under these a Ritz value says little


@dataclass
class _Blocks:
    """What was found for each block of entries, and why something is missing."""

    along: dict[tuple[int, ...], float] = field(default_factory=dict)
    top: dict[tuple[int, ...], Eigenvalue] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class _Whole:
    probes: list[list[float]] = field(default_factory=list)
    pair: list[PairedProduct] = field(default_factory=list)  # the first two probes
    along: float | None = None
    top: Eigenvalue | None = None
    reasons: list[str] = field(default_factory=list)


def curvature_section(s: SectionInput) -> SectionResult:
    """Measure curvature as far as the budget goes.

    Cost: about three bare passes for the first product and two for each further one; `PROBES` products for the trace,
    up to `LANCZOS_STEPS` for the top eigenvalue, then products with blocks, each at most as much.
    """
    broken = [entry.name for entry, read in s.reading.gradients.items() if read.distribution is None]
    reason = f"gradients are not finite, first in {broken[0]}" if broken else None
    reason = reason or refused(s.budget, FIRST_PRODUCT * s.pass_seconds)
    if reason is not None:
        return SectionResult(Curvature(status="undetermined", reason=reason))
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        started = time.perf_counter()
        whole = _Whole(along=_quotient(hessian, hessian.everything))
        unit = time.perf_counter() - started
        s.progress(0.05)
        _probe(s, hessian, whole, unit)
        contradicted = contradiction(s, hessian, whole.pair)
        if contradicted is not None:
            return SectionResult(Curvature(status="undetermined", reason=contradicted))
        s.progress(0.3)
        _find_top(s, hessian, whole, unit)
        s.progress(0.6)
        layers = _layers(s, hessian)
        blocks = _measure_blocks(s, hessian, layers, unit)
    return _report(hessian, whole, layers, blocks)


def _quotient(hessian: HessianProducts, block: Sequence[int]) -> float | None:
    """gᵀHg/gᵀg within a block; None for a gradient that is zero."""
    slopes = [hessian.slopes[index] for index in block]
    square = math.fsum(as_floats([inner_product(slope, slope) for slope in slopes]))
    if square <= 0:
        return None
    return finite(math.fsum(hessian.inner(slopes, block)) / square)


def _probe(s: SectionInput, hessian: HessianProducts, whole: _Whole, unit: float) -> None:
    draws = generator(s.seed, "hutchinson")
    budget = s.budget.part(0.4)
    waiting: list[Sequence[torch.Tensor]] = []
    for probe in range(PROBES):
        reason = refused(budget, unit)
        if reason is not None:
            if probe < 2:
                whole.reasons.append(f"hessian_trace after {probe} probes: {reason}")
            return
        if probe < 2:  # the first two are drawn together, to be held against each other
            waiting = waiting or [_signs(hessian, draws), _signs(hessian, draws)]
            whole.pair.append(paired_product(hessian, waiting[probe], waiting[1 - probe]))
            whole.probes.append(whole.pair[-1].inner)
        else:
            waiting.clear()
            whole.probes.append(hessian.inner(_signs(hessian, draws), hessian.everything))
        s.progress(0.05 + 0.25 * (probe + 1) / PROBES)


def _signs(hessian: HessianProducts, draws: torch.Generator) -> Sequence[torch.Tensor]:
    return torch.split(signs(hessian.size, draws, hessian.slopes[0]), hessian.sizes)


def _find_top(s: SectionInput, hessian: HessianProducts, whole: _Whole, unit: float) -> None:
    steps = min(LANCZOS_STEPS, hessian.size)
    budget = s.budget.part(0.6)
    wanted = min(FEWEST_STEPS, hessian.size)
    reason = refused(budget, wanted * unit)
    if reason is not None:
        whole.reasons.append(f"top_eigenvalue: {reason}")
        return

    def go_on(done: int) -> bool:
        s.progress(0.3 + 0.3 * done / steps)
        return done < wanted or budget.allows(unit)

    try:
        whole.top = top_eigenvalue(
            hessian.product, random_start(hessian.size, generator(s.seed, "lanczos"), hessian.slopes[0]),
            max_products=steps, tolerance=TOLERANCE, go_on=go_on,
        )  # fmt: skip
        if math.isnan(whole.top.value):
            whole.reasons.append("top_eigenvalue: a product with the Hessian is not finite")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        whole.reasons.append("top_eigenvalue: memory: it ran out; a smaller batch leaves more room")


def _layers(s: SectionInput, hessian: HessianProducts) -> dict[str, tuple[int, ...]]:
    """Places of the entries of each layer."""
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    layers: dict[str, list[int]] = {}
    for place, entry in enumerate(hessian.entries):
        layers.setdefault(layer_of.get(entry, owner_of(entry.name) or entry.name), []).append(place)
    return {name: tuple(places) for name, places in layers.items()}


def _measure_blocks(
    s: SectionInput, hessian: HessianProducts, layers: Mapping[str, tuple[int, ...]], unit: float
) -> _Blocks:
    found = _Blocks()
    wanted = list(dict.fromkeys([*layers.values(), *((place,) for place in hessian.everything)]))
    budget = s.budget if s.budget.seconds_left < float("inf") else Budget(PATIENCE)
    for done, block in enumerate(wanted):
        found.reason = refused(budget, unit)
        if found.reason is not None:
            return found
        along = _quotient(hessian, block)
        if along is not None:
            found.along[block] = along
        s.progress(0.6 + 0.1 * (done + 1) / len(wanted))
    for done, block in enumerate(wanted):
        size = hessian.block_size(block)
        steps = min(LANCZOS_STEPS, size)
        found.reason = refused(budget, min(FEWEST_STEPS, size) * unit)
        if found.reason is not None:
            return found
        start = random_start(size, generator(s.seed, "lanczos of a block"), hessian.slopes[0])
        top = _block_top(hessian, block, start, steps, budget, unit)
        if top.residual <= _CLOSE * abs(top.value):
            found.top[block] = top
        s.progress(0.7 + 0.3 * (done + 1) / len(wanted))
    return found


_CLOSE = 0.05  # relative residual above which a block's Ritz value is not shown; chosen


def _block_top(
    hessian: HessianProducts, block: Sequence[int], start: torch.Tensor, steps: int, budget: Budget, unit: float
) -> Eigenvalue:
    return top_eigenvalue(
        lambda vector, out: hessian.block_product(vector, out, block), start, max_products=steps, tolerance=TOLERANCE,
        go_on=lambda _done: budget.allows(unit),
    )  # fmt: skip


def _report(
    hessian: HessianProducts, whole: _Whole, layers: Mapping[str, tuple[int, ...]], blocks: _Blocks
) -> SectionResult:
    everything = hessian.everything
    total = trace_of(whole.probes, everything) if whole.probes else Trace(float("nan"), None)
    if whole.probes and math.isnan(total.value):
        whole.reasons.append("hessian_trace: a product with the Hessian is not finite")
    products = 1 + len(whole.probes) + (whole.top.products if whole.top is not None else 0)
    section = Curvature(
        reason="; ".join(whole.reasons)[:4096] or None,
        hessian_trace=finite(total.value),
        hessian_trace_stderr=finite(total.stderr),
        curvature_along_gradient=whole.along,
        top_eigenvalue=finite(whole.top.value) if whole.top is not None else None,
        top_eigenvalue_residual=finite(whole.top.residual) if whole.top is not None else None,
        products=products + len(blocks.along) + sum(top.products for top in blocks.top.values()),
        layers=tuple(_layer_row(name, block, whole, blocks) for name, block in layers.items()),
    )
    rows = {
        entry.name: {
            "hessian_trace": trace_of(whole.probes, [place]).value if whole.probes else None,
            "curvature_along_gradient": blocks.along.get((place,)),
            "top_eigenvalue": blocks.top[(place,)].value if (place,) in blocks.top else None,
        }
        for place, entry in enumerate(hessian.entries)
    }
    return SectionResult(section, rows)


def _layer_row(name: str, block: tuple[int, ...], whole: _Whole, blocks: _Blocks) -> LayerCurvature:
    trace = trace_of(whole.probes, block) if whole.probes else Trace(float("nan"), None)
    top = blocks.top.get(block)
    return LayerCurvature(
        layer=name,
        hessian_trace=finite(trace.value),
        hessian_trace_stderr=finite(trace.stderr),
        curvature_along_gradient=blocks.along.get(block),
        top_eigenvalue=finite(top.value) if top is not None else None,
        top_eigenvalue_residual=finite(top.residual) if top is not None else None,
        reason=None if top is not None else blocks.reason or f"Lanczos did not settle in {LANCZOS_STEPS} steps",
    )
