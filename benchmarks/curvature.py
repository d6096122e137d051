"""Cost of Hessian products, traces and the top eigenvalue over a bare forward and backward pass.

Run: python -m benchmarks.curvature [model …]
"""

from __future__ import annotations

import warnings
from functools import partial

import torch

from benchmarks.allocations import memory_ratio
from benchmarks.models import MODELS
from benchmarks.pairs import Row, chosen, peer_rows, ratio_of, sections_input, show
from benchmarks.peers import CURVATURE_PEERS
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.lanczos import top_eigenvalue
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from gradinspect.probes.scales.curvature import measure_curvature
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.scales.measurement import measure_groups

FIRST_GOAL, FURTHER_GOAL, LANCZOS_GOAL, MEMORY_GOAL = 3.2, 2.2, 22.0, 3.0
LANCZOS_STEPS = 10
PAIRS = {"mlp": 9, "resnet": 3, "gpt": 3}
LANCZOS_PAIRS = {"mlp": 5, "resnet": 3, "gpt": 3}


def products(s: SectionInput, count: int) -> None:
    """Record the graph, and compute gᵀHg and some further products with it."""
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        for _ in range(count):
            hessian.inner(hessian.slopes, hessian.everything)


def lanczos(s: SectionInput) -> None:
    """Compute the top eigenvalue in ten steps."""
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        start = torch.cat([slope.reshape(-1) for slope in hessian.slopes])
        top_eigenvalue(hessian.product, start, max_products=LANCZOS_STEPS, tolerance=0.0)


def interactions(s: SectionInput) -> None:
    """Compute M_ij = g_iᵀGg_j of all pairs of groups, with their gradients."""
    found = measure_curvature(s, measure_groups(s, make_groups(s)))
    assert found.form is not None


def main() -> None:
    """Measure each model and print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name, make in chosen(MODELS).items():
        subject = make()
        s = sections_input(subject)

        products(s, 1)
        subject.bare()
        first = ratio_of(partial(products, s, 1), subject.bare, pairs=PAIRS[name])
        further = ratio_of(partial(products, s, 3), subject.bare, pairs=PAIRS[name])
        steps = ratio_of(partial(lanczos, s), subject.bare, pairs=LANCZOS_PAIRS[name])
        memory = memory_ratio(subject.model, partial(products, s, 1), subject.bare)
        rows.append(Row("gᵀHg: the first product, its graph included", name, first, FIRST_GOAL, memory, MEMORY_GOAL))
        rows.append(Row("each further product (Hutchinson)", name, (further - first) / 2, FURTHER_GOAL))
        rows.append(Row("top eigenvalue, 10 Lanczos steps", name, steps, LANCZOS_GOAL))
        groups = len(make_groups(s))
        pairs = ratio_of(partial(interactions, s), subject.bare, pairs=LANCZOS_PAIRS[name])
        rows.append(Row(f"full M_ij of {groups} groups, gradients included", name, pairs, 1 + 0.75 * groups))
        rows += peer_rows(subject, CURVATURE_PEERS, pairs=LANCZOS_PAIRS[name])
    show("Curvature", rows, CURVATURE_PEERS)


if __name__ == "__main__":
    main()
