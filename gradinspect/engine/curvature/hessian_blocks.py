"""Curvature of diagonal blocks of the Hessian: single layers and parameters, the others held constant."""

from __future__ import annotations

from collections.abc import Iterable

from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.lanczos import Eigenvalue, random_start, top_eigenvalue
from gradinspect.engine.curvature.whole_hessian import FEWEST_STEPS, LANCZOS_STEPS, TOLERANCE, rayleigh_quotient
from gradinspect.engine.first_order.context import Budget, SectionInput, refused
from gradinspect.engine.network.reproducible import generator

PATIENCE_SECONDS = 30.0  # for all blocks where the request sets no limit; chosen
LARGEST_RESIDUAL = 0.05  # relative to θ; a block's Ritz value with a larger one is not reported; chosen

Block = tuple[int, ...]


class HessianBlocks:
    """Measurements with products of blocks, as far as the budget goes.

    Attributes:
        along: block → gᵀHg/gᵀg, for blocks whose gradient is not zero.
        top: block → top eigenvalue, for blocks where Lanczos converged.
        reason: why the remaining blocks were left out.
    """

    def __init__(self, s: SectionInput, hessian: HessianProducts, product_seconds: float) -> None:
        self._s, self._hessian, self._product_seconds = s, hessian, product_seconds
        self._budget = s.budget if s.budget.seconds_left < float("inf") else Budget(PATIENCE_SECONDS)
        self.along: dict[Block, float] = {}
        self.top: dict[Block, Eigenvalue] = {}
        self.reason: str | None = None

    @property
    def products(self) -> int:
        """Number of products behind the reported numbers."""
        return len(self.along) + sum(top.products for top in self.top.values())

    def measure(self, blocks: Iterable[Block]) -> None:
        """Measure the quotients of all blocks first, which are cheap, then their top eigenvalues."""
        distinct = list(dict.fromkeys(blocks))
        for done, block in enumerate(distinct, 1):
            self.reason = refused(self._budget, self._product_seconds)
            if self.reason is not None:
                return
            along = rayleigh_quotient(self._hessian, block)
            if along is not None:
                self.along[block] = along
            self._s.progress(0.6 + 0.1 * done / len(distinct))
        for done, block in enumerate(distinct, 1):
            fewest = min(FEWEST_STEPS, self._hessian.block_size(block))
            self.reason = refused(self._budget, fewest * self._product_seconds)
            if self.reason is not None:
                return
            top = self._find_top(block)
            if top.residual <= LARGEST_RESIDUAL * abs(top.value):
                self.top[block] = top
            self._s.progress(0.7 + 0.3 * done / len(distinct))

    def _find_top(self, block: Block) -> Eigenvalue:
        hessian, size = self._hessian, self._hessian.block_size(block)
        return top_eigenvalue(
            lambda vector, out: hessian.block_product(vector, out, block),
            random_start(size, generator(self._s.seed, "lanczos of a block"), hessian.slopes[0]),
            max_products=min(LANCZOS_STEPS, size),
            tolerance=TOLERANCE,
            go_on=lambda _done: self._budget.allows(self._product_seconds),
        )
