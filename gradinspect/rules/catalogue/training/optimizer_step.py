"""The declared optimizer's first step is not finite, or too small for the parameters' precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.contracts.optimizers import Optimizer, Sgd
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.setup import ParameterStep
from gradinspect.contracts.request.policy import Severity
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, number, percent, quoted

HALF = frozenset({"float16", "bfloat16"})
SMALLEST_HALF = 6e-8  # the smallest float16 above 0
SAFE_EPS = 1e-4  # in float16 its square root and quotients stay finite


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Judge steps that are not finite first, then those that round away."""
    if evidence.optimizer is None:
        return NotJudged("no optimizer was declared")
    steps = evidence.setup.steps
    if not steps:
        return NotJudged("the optimizer's first step was not measured")
    broken = [step for step in steps if step.nonfinite_fraction and not _is_broken(evidence, step.parameter)]
    if broken and "fail" in thresholds.levels:
        return _not_finite(evidence.optimizer, broken)
    lost = {step.parameter: step.lost_fraction for step in steps if step.lost_fraction}
    # The l1 norm of each parameter's step, for elements of equal size.
    sizes = {row.name: row.update_norm * math.sqrt(row.numel) for row in evidence.parameters if row.update_norm}
    total = math.fsum(sizes.values())
    share = math.fsum(lost.get(name, 0.0) * size for name, size in sizes.items()) / total if total else 0.0
    severity = thresholds.severity(share)
    return _lost(steps, share, severity, thresholds) if severity is not None else None


def _is_broken(evidence: Evidence, parameter: str) -> bool:
    """Check for a gradient or a weight that is not finite itself, which `non_finite` reports."""
    row = evidence.by_name.get(parameter)
    return row is not None and bool(row.nan_count or row.inf_count or row.weight_nonfinite_count)


def _not_finite(optimizer: Optimizer, broken: Sequence[ParameterStep]) -> Finding:
    worst = max(broken, key=lambda step: step.nonfinite_fraction or 0.0)
    share = worst.nonfinite_fraction or 0.0
    others = f", and {counted(len(broken) - 1, 'other parameter')} too" if len(broken) > 1 else ""
    message = (
        f"The first step of {optimizer.torch_name} makes {percent(share)} of {quoted(worst.parameter)} NaN or "
        f"infinite{others}, although its gradient is finite."
    )
    remedy = None
    is_small_eps = not isinstance(optimizer, Sgd) and worst.dtype == "float16" and optimizer.eps < SMALLEST_HALF
    if not isinstance(optimizer, Sgd) and is_small_eps:
        message += (
            f" eps={number(optimizer.eps)} is 0 in float16, and squares of small gradients are 0 too, so the step "
            "divides by 0."
        )
        changed = optimizer.model_copy(update={"eps": SAFE_EPS})
        remedy = Remedy(
            action="set_optimizer",
            arguments={"optimizer": changed.model_dump(mode="json"), "or": "keep float32 weights and use autocast"},
        )
    return RULE.finding(
        severity="fail",
        parameters=[step.parameter for step in broken],
        value=share,
        message=message,
        remedy=remedy,
    )


def _lost(steps: Sequence[ParameterStep], share: float, severity: Severity, thresholds: Thresholds) -> Finding:
    lost = sorted(steps, key=lambda step: -(step.lost_fraction or 0.0))
    worst = lost[0]
    advice = Remedy(action="use_precision", arguments={"dtype": "float32"}) if worst.dtype in HALF else None
    return RULE.finding(
        severity=severity,
        parameters=[step.parameter for step in lost if step.lost_fraction],
        value=share,
        threshold=thresholds.crossed(severity, share),
        message=(
            f"{percent(share)} of the first step is lost, most in {quoted(worst.parameter)}: it is smaller than half "
            f"the distance between neighbouring {worst.dtype} numbers."
        ),
        remedy=advice,
    )


RULE = Rule(
    id="optimizer_step",
    title="The optimizer's step is not finite, or rounds to nothing",
    what="Share of the declared optimizer's first step (sum of magnitudes) that rounds to nothing in the parameters' "
    "precision; also reported are parameters that the step makes NaN or infinite. From a sample of the elements.",
    why=(
        "Half precision has few digits and a small range: a learning rate times a gradient may be too small to change "
        "a weight, and an eps of 1e-8 is 0, so that Adam divides by 0. Keep the weights in float32 and compute in half "
        "precision with autocast."
    ),
    unit="share of the step",
    compares="above",
    largest=1.0,
    reference="Micikevicius et al. 2018, Mixed precision training, section 3.1: a float32 master copy of weights",
    check=check,
    if_it_learns="kept",
    warn=Level(0.01, "chosen: 2.5 % of the elements of a healthy network with lr 1e-4 are lost, and 0.1 % of its step"),
    fail=Level(0.5, "chosen: most of the network does not train; also for any element that is not finite"),
)
