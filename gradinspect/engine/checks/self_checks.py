"""Checks of a run's own numbers, which are listed in its report."""

from __future__ import annotations

import math

import torch

from gradinspect.contracts.report.report import SelfCheck
from gradinspect.engine.checks.allowance import Allowance
from gradinspect.engine.checks.finite_differences import finite_differences
from gradinspect.engine.checks.repeated_calls import repeated_calls
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.tracing.readings import PassReading

TOLERANCE_EPSILONS = 2_000  # chosen: rounding of L products of width n grows like √(L·n); 2,000 covers L·n = 4·10⁶


def run_checks(s: SectionInput, dtype: torch.dtype) -> list[SelfCheck]:
    """Run all checks of a pass; each says why where it does not apply.

    Args:
        s: the section's input.
        dtype: the precision that the gradients were computed in.

    Cost: as much CPU time as the first pass, or 25 ms where that is more; for TorchScript one pass at least.
    """
    allowance = Allowance(s.pass_cpu_seconds)
    repeated = repeated_calls(s, allowance)
    return [balance_identity(s.reading, dtype), *finite_differences(s, allowance), *repeated]


def balance_identity(reading: PassReading, dtype: torch.dtype) -> SelfCheck:
    """Check that ⟨W_l, dL/dW_l⟩ is the same for every layer of a chain of positively homogeneous maps without biases.

    Source: Du, Hu and Lee 2018, "Algorithmic regularization in learning deep homogeneous models", theorem 2.1, at one
    point of the flow: both sides equal Σ δ·z, and z ↦ φ(Wz) carries that sum from layer to layer unchanged.
    """
    name = "balance_identity"
    weights = [entry for call in reading.calls for entry in call.entries if entry in reading.balanced]
    biases = [entry for call in reading.calls for entry in call.entries if entry not in reading.balanced]
    if len(weights) < 2 or any(reading.weights[bias].rms != 0 for bias in biases):
        return SelfCheck(
            name=name, status="not_applicable",
            detail="needs a chain of unbiased linear maps with ReLU, leaky ReLU or no activation",
        )  # fmt: skip
    read = [weight for weight in weights if weight in reading.gradients]
    products = [reading.gradients[weight].weight_product for weight in read]
    # A product much smaller than ‖W‖·‖dL/dW‖ comes from cancellation, and has rounding errors of that scale.
    scale = max((reading.gradients[each].moments.norm * reading.weights[each].norm for each in read), default=0.0)
    if len(products) < 2 or not all(map(math.isfinite, products)) or scale == 0:
        return SelfCheck(name=name, status="not_applicable", detail="needs two finite gradients")
    value = (max(products) - min(products)) / scale
    tolerance = TOLERANCE_EPSILONS * torch.finfo(dtype).eps
    return SelfCheck(
        name=name,
        status="passed" if value <= tolerance else "failed",
        value=value,
        tolerance=tolerance,
        detail="spread of the weight-gradient products over layers, relative to the largest norm product",
    )
