"""The gradient dies within a few training steps while the loss stays where it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.sections import TimeDecay, TracePoint
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, fold, number, percent, quoted

HARDLY_FELL = 0.1  # chosen: a loss that has fallen by less than a tenth has not been learned
AT_ONCE = 0.5  # chosen: where the gradient dies from one step to the next, it is not because the loss is solved
FEWEST = 5  # points at both ends together


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the gradient's norm at the end of the short training run with its largest before."""
    trace = evidence.time_decay
    points = [] if trace is None else [point for point in trace.trace if point.loss is not None]
    if trace is None or len(points) < FEWEST:
        return NotJudged("gradients were not followed over training steps")
    first, last = points[0].loss or 0.0, points[-1].loss or 0.0
    left = last / first if first > 0 else 0.0
    if left < 1 - AT_ONCE:
        return None
    norms = [("", [point.total_grad_norm for point in points])]
    norms += [(name, [_layer(point, index) for point in points]) for index, name in enumerate(trace.layers)]
    is_standing = left >= 1 - HARDLY_FELL
    falls = [(name, _fall(each)) for name, each in norms if is_standing or _is_sudden(each, thresholds)]
    fired = [(name, fall) for name, fall in falls if fall is not None and thresholds.severity(fall) is not None]
    if not fired:
        return None
    layers = [name for name, _ in fired if name]
    name, value = next(((name, fall) for name, fall in fired if not name), max(fired, key=lambda pair: pair[1]))
    severity = thresholds.severity(value) or "warn"
    whose = f"The gradient of {quoted(name)}" if name else "The gradient"
    return RULE.finding(
        severity=severity,
        layers=layers,
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=(
            f"{whose} shrinks {fold(10**value)} within {counted(len(points), 'step')}, while the loss goes from "
            f"{number(first)} to {number(last)}{_assumed(trace)}: then nothing moves any more."
        ),
        remedy=Remedy(action="lower_learning_rate", arguments={"layers": layers[:64]}),
    )


def _fall(norms: Sequence[float | None]) -> float | None:
    """Return the decades from the largest norm of the first half to the last one."""
    known = [norm for norm in norms if norm is not None]
    start = max(known[: len(known) // 2 + 1], default=0.0)
    if len(known) < FEWEST or start <= 0:
        return None
    floor = start * 1e-30
    return math.log10(start / max(known[-1], floor))


def _is_sudden(norms: Sequence[float | None], thresholds: Thresholds) -> bool:
    """Check for one step at which the norm falls as far as the threshold asks for the whole run."""
    known = [norm for norm in norms if norm is not None]
    falls = [math.log10(a / max(b, a * 1e-30)) for a, b in pairwise(known) if a > 0]
    return any(thresholds.severity(fall) is not None for fall in falls)


def _layer(point: TracePoint, index: int) -> float | None:
    return point.layer_grad_norms[index] if index < len(point.layer_grad_norms) else None


def _assumed(trace: TimeDecay) -> str:
    return (
        " (with SGD, as no optimizer was declared)" if trace.reason is not None and "declared" in trace.reason else ""
    )


RULE = Rule(
    id="training_decay",
    title="The gradient dies while the loss does not fall",
    what="Decades by which the norm of the gradient, in all or of a layer, falls over a short training run in which "
    f"the loss falls by less than {percent(HARDLY_FELL)}; by less than {percent(AT_ONCE)} where it falls within one "
    "step.",
    why=(
        "A gradient that shrinks because the loss is solved is training; one that shrinks while the loss stays is a "
        "network that has been pushed to where it no longer reacts: units that died or saturated in the first steps, "
        "most often by too large a learning rate."
    ),
    unit="decades",
    compares="above",
    reference="Lu, Shin, Su and Karniadakis 2020, Dying ReLU and initialization; Glorot and Bengio 2010, figure 2",
    check=check,
    if_it_learns="outvoted_as_declared",
    warn=Level(2.0, "chosen: two decades within the run are far beyond its fluctuations"),
)
