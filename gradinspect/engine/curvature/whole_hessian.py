"""Curvature of the whole model: along the gradient, the trace by Hutchinson, the top eigenvalue by Lanczos."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from gradinspect.engine.arrays.deferred import as_floats, inner_product
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.hutchinson import signs
from gradinspect.engine.curvature.lanczos import Eigenvalue, random_start, top_eigenvalue
from gradinspect.engine.curvature.symmetry import PairedProduct, paired_product
from gradinspect.engine.first_order.context import SectionInput, refused
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.reproducible import generator
from gradinspect.engine.rows.layer_rows import finite

PROBES = 16  # chosen: the standard error is then a quarter of one probe's standard deviation
LANCZOS_STEPS = 30
TOLERANCE = 1e-3  # of the residual; the eigenvalue's own error is of its square over the gap to the next one
FEWEST_STEPS = 4  # a Ritz value after fewer steps says little


class WholeHessian:
    """Measurements with products of the whole Hessian, as far as the budget goes.

    Attributes:
        along: gᵀHg/gᵀg; None for a gradient that is zero.
        product_seconds: wall time of one product.
        probes: v_bᵀ(Hv)_b of each entry b, one row for each probe.
        pair: the first two probes, each multiplied with the other.
        top: the top eigenvalue.
        reasons: why numbers are missing.
    """

    def __init__(self, s: SectionInput, hessian: HessianProducts) -> None:
        self._s, self._hessian = s, hessian
        started = time.perf_counter()
        self.along = rayleigh_quotient(hessian, hessian.everything)
        self.product_seconds = time.perf_counter() - started
        self.probes: list[list[float]] = []
        self.pair: list[PairedProduct] = []
        self.top: Eigenvalue | None = None
        self.reasons: list[str] = []

    @property
    def products(self) -> int:
        """Number of products so far."""
        return 1 + len(self.probes) + (self.top.products if self.top is not None else 0)

    def probe_trace(self) -> None:
        """Multiply with up to `PROBES` random sign vectors; the first two are also checked for symmetry."""
        draws = generator(self._s.seed, "hutchinson")
        budget = self._s.budget.part(0.4)
        pair: list[Sequence[torch.Tensor]] = []
        for probe in range(PROBES):
            reason = refused(budget, self.product_seconds)
            if reason is not None:
                if probe < 2:
                    self.reasons.append(f"hessian_trace after {probe} probes: {reason}")
                return
            if probe < 2:
                pair = pair or [self._signs(draws), self._signs(draws)]
                self.pair.append(paired_product(self._hessian, pair[probe], pair[1 - probe]))
                self.probes.append(self.pair[-1].inner)
            else:
                pair.clear()  # frees two vectors of the model's size
                self.probes.append(self._hessian.inner(self._signs(draws), self._hessian.everything))
            self._s.progress(0.05 + 0.25 * (probe + 1) / PROBES)

    def find_top(self) -> None:
        """Find the top eigenvalue; note the reason where budget or memory do not allow it."""
        hessian, budget = self._hessian, self._s.budget.part(0.6)
        steps = min(LANCZOS_STEPS, hessian.size)
        fewest = min(FEWEST_STEPS, hessian.size)
        reason = refused(budget, fewest * self.product_seconds)
        if reason is not None:
            self.reasons.append(f"top_eigenvalue: {reason}")
            return

        def go_on(done: int) -> bool:
            self._s.progress(0.3 + 0.3 * done / steps)
            return done < fewest or budget.allows(self.product_seconds)

        start = random_start(hessian.size, generator(self._s.seed, "lanczos"), hessian.slopes[0])
        try:
            self.top = top_eigenvalue(hessian.product, start, max_products=steps, tolerance=TOLERANCE, go_on=go_on)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.reasons.append("top_eigenvalue: memory: it ran out; a smaller batch leaves more room")
            return
        if math.isnan(self.top.value):
            self.reasons.append("top_eigenvalue: a product with the Hessian is not finite")

    def _signs(self, draws: torch.Generator) -> Sequence[torch.Tensor]:
        hessian = self._hessian
        return torch.split(signs(hessian.size, draws, hessian.slopes[0]), hessian.sizes)


def rayleigh_quotient(hessian: HessianProducts, block: Sequence[int]) -> float | None:
    """Compute gᵀHg/gᵀg within a block, g the gradient; None where g is zero."""
    slopes = [hessian.slopes[index] for index in block]
    square = math.fsum(as_floats([inner_product(slope, slope) for slope in slopes]))
    if square <= 0:
        return None
    return finite(math.fsum(hessian.inner(slopes, block)) / square)
