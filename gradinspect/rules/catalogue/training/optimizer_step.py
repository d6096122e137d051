"""The declared optimizer's first step is not finite, or too small for the parameters' precision."""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.contracts.optimizers import Optimizer, Sgd
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.setup import ParameterStep
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
    broken = [step for step in steps if step.nonfinite_fraction and not _is_broken(evidence, step.parameter)]
    if broken and "fail" in thresholds.levels:
        return _not_finite(evidence.optimizer, broken)
    lost = [step for step in steps if thresholds.severity(step.lost_fraction or 0.0) is not None]
    return _lost(lost, thresholds) if lost else None


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


def _lost(lost: Sequence[ParameterStep], thresholds: Thresholds) -> Finding:
    worst = max(lost, key=lambda step: step.lost_fraction or 0.0)
    share = worst.lost_fraction or 0.0
    severity = thresholds.severity(share) or "warn"
    others = f", and {counted(len(lost) - 1, 'other parameter')} too" if len(lost) > 1 else ""
    advice = Remedy(action="use_precision", arguments={"dtype": "float32"}) if worst.dtype in HALF else None
    return RULE.finding(
        severity=severity,
        parameters=[step.parameter for step in lost],
        value=share,
        threshold=thresholds.crossed(severity, share),
        message=(
            f"The first step leaves {percent(share)} of {quoted(worst.parameter)} unchanged{others}: it is smaller "
            f"than half the distance between neighbouring {worst.dtype} numbers."
        ),
        remedy=advice,
    )


RULE = Rule(
    id="optimizer_step",
    title="The optimizer's step is not finite, or rounds to nothing",
    what="Share of a sample of a parameter's elements that the declared optimizer's first step makes NaN or infinite, "
    "or leaves unchanged although they have a gradient; computed in the parameter's own precision.",
    why=(
        "Half precision has few digits and a small range: a learning rate times a gradient may be too small to change "
        "a weight, and an eps of 1e-8 is 0, so that Adam divides by 0. Keep the weights in float32 and compute in half "
        "precision with autocast."
    ),
    unit="share of elements",
    compares="above",
    largest=1.0,
    reference="Micikevicius et al. 2018, Mixed precision training, section 3.1: a float32 master copy of weights",
    check=check,
    if_it_learns="kept",
    warn=Level(0.01, "chosen: more than the tail of the smallest gradients"),
    fail=Level(0.5, "chosen: most of the parameter does not train; also for any element that is not finite"),
)
