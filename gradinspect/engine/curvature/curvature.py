"""Curvature of the loss: along the gradient, on average over directions, and along the steepest one.

For the whole model, and for the parameters of one layer and single parameters with everything else held constant (the
diagonal blocks of the Hessian). The most important numbers come first; what the budget refuses is named in `reason`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradinspect.contracts.report.sections import Curvature, LayerCurvature
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.hessian_blocks import Block, HessianBlocks
from gradinspect.engine.curvature.hutchinson import Trace, trace_of
from gradinspect.engine.curvature.symmetry import contradiction
from gradinspect.engine.curvature.whole_hessian import LANCZOS_STEPS, WholeHessian
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from gradinspect.engine.network.parameters import owner_of
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.engine.tracing.naming import layer_of_parameters

FIRST_PRODUCT = 3.2  # passes, as benchmarks/curvature.py measures them: the graph, and one product with it


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
        whole = WholeHessian(s, hessian)
        s.progress(0.05)
        whole.probe_trace()
        contradicted = contradiction(s, hessian, whole.pair)
        if contradicted is not None:
            return SectionResult(Curvature(status="undetermined", reason=contradicted))
        s.progress(0.3)
        whole.find_top()
        s.progress(0.6)
        layers = _layers(s, hessian)
        blocks = HessianBlocks(s, hessian, whole.product_seconds)
        blocks.measure([*layers.values(), *((index,) for index in hessian.everything)])
    return _report(hessian, whole, layers, blocks)


def _layers(s: SectionInput, hessian: HessianProducts) -> dict[str, Block]:
    """Return the indices of each layer's entries."""
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    layers: dict[str, list[int]] = {}
    for index, entry in enumerate(hessian.entries):
        layers.setdefault(layer_of.get(entry, owner_of(entry.name) or entry.name), []).append(index)
    return {name: tuple(indices) for name, indices in layers.items()}


def _report(
    hessian: HessianProducts, whole: WholeHessian, layers: Mapping[str, Block], blocks: HessianBlocks
) -> SectionResult:
    total = _trace(whole, hessian.everything)
    if whole.probes and math.isnan(total.value):
        whole.reasons.append("hessian_trace: a product with the Hessian is not finite")
    section = Curvature(
        reason="; ".join(whole.reasons)[:4096] or None,
        hessian_trace=finite(total.value),
        hessian_trace_stderr=finite(total.stderr),
        curvature_along_gradient=whole.along,
        top_eigenvalue=finite(whole.top.value) if whole.top is not None else None,
        top_eigenvalue_residual=finite(whole.top.residual) if whole.top is not None else None,
        products=whole.products + blocks.products,
        layers=tuple(_layer_row(name, block, whole, blocks) for name, block in layers.items()),
    )
    rows = {
        entry.name: {
            "hessian_trace": _trace(whole, (index,)).value if whole.probes else None,
            "curvature_along_gradient": blocks.along.get((index,)),
            "top_eigenvalue": blocks.top[index,].value if (index,) in blocks.top else None,
        }
        for index, entry in enumerate(hessian.entries)
    }
    return SectionResult(section, rows)


def _layer_row(name: str, block: Block, whole: WholeHessian, blocks: HessianBlocks) -> LayerCurvature:
    trace = _trace(whole, block)
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


def _trace(whole: WholeHessian, block: Block | range) -> Trace:
    return trace_of(whole.probes, block) if whole.probes else Trace(math.nan, None)
