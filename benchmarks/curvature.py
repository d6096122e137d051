"""What Hessian products, traces and the top eigenvalue cost beside a bare forward and backward pass.

Run: python benchmarks/curvature.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from models import MODELS
from pairs import Row, peak_bytes, ratio_of, sections_input, show

from gradinspect.engine.hessian import HessianProducts
from gradinspect.engine.lanczos import top_eigenvalue
from gradinspect.engine.replay import replaying, twice_differentiable
from gradinspect.engine.section import SectionInput

FIRST_GOAL, FURTHER_GOAL, LANCZOS_GOAL, MEMORY_GOAL = 3.2, 2.2, 22.0, 3.0
LANCZOS_STEPS = 10
PAIRS = {"mlp": 9, "resnet": 3, "gpt": 3}


def products(s: SectionInput, count: int) -> None:
    """The graph, and gᵀHg and a number of further products with it."""
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        for _ in range(count):
            hessian.product(hessian.gradient)


def lanczos(s: SectionInput) -> None:
    """The top eigenvalue after ten steps."""
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        top_eigenvalue(hessian.product, hessian.gradient, max_products=LANCZOS_STEPS, tolerance=0.0)


def main() -> None:
    """Measure each model and print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name, make in MODELS.items():
        subject = make()
        s = sections_input(subject)

        def times(work: Callable[[], None], subject: object = subject, name: str = name) -> float:
            return ratio_of(work, subject.bare, pairs=PAIRS[name])  # type: ignore[attr-defined]  # a benchmark's subject

        products(s, 1)
        subject.bare()
        first = times(lambda s=s: products(s, 1))
        further = times(lambda s=s: products(s, 3))
        subject.model.zero_grad(set_to_none=True)
        memory = peak_bytes(lambda s=s: products(s, 1)) / peak_bytes(subject.bare)
        rows.append(Row("gᵀHg: the first product, its graph included", name, first, FIRST_GOAL, memory, MEMORY_GOAL))
        rows.append(Row("each further product (Hutchinson)", name, (further - first) / 2, FURTHER_GOAL))
        rows.append(Row("top eigenvalue, 10 Lanczos steps", name, times(lambda s=s: lanczos(s)), LANCZOS_GOAL))
    show("Curvature", rows, ["backpack", "curvlinops", "pyhessian"])


if __name__ == "__main__":
    main()
