"""Gradients that become exactly zero in the declared low precision."""

from __future__ import annotations

import math

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import ParameterMeasurement
from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import number, percent, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the share over all gradients, and name the parameters that lose most."""
    section = evidence.precision
    dtype = declared_low_precision(section)
    if section is None or dtype is None:
        return NotJudged("neither float16 nor bfloat16 was declared as the intended precision")
    value = section.fp16_flush_fraction if dtype == "float16" else section.bf16_flush_fraction
    if value is None:
        return NotJudged("the share of flushed gradients was not measured")
    severity = thresholds.severity(value)
    if severity is None:
        return None
    rows = sorted((row for row in evidence.parameters if _flushed(row, dtype)), key=lambda row: -_flushed(row, dtype))
    scale = section.loss_scale or 1.0
    most = f"; most in {quoted(rows[0].name)} ({percent(_flushed(rows[0], dtype))})" if rows else ""
    return RULE.finding(
        severity=severity,
        layers=[row.layer for row in rows],
        parameters=[row.name for row in rows],
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=f"{percent(value)} of the gradients become zero in {dtype} at a loss scale of {number(scale)}{most}.",
        remedy=_remedy(section, dtype),
    )


def declared_low_precision(section: PrecisionSection | None) -> str | None:
    """Return the low precision of the training: the intended one, else that of the computation."""
    if section is None:
        return None
    dtype = section.intended or section.compute
    return dtype if dtype in ("float16", "bfloat16") else None


def _flushed(row: ParameterMeasurement, dtype: str) -> float:
    return (row.fp16_flush_fraction if dtype == "float16" else row.bf16_flush_fraction) or 0.0


def _remedy(section: PrecisionSection, dtype: str) -> Remedy:
    window = section.loss_scale_window
    if dtype == "float16" and window is not None and window[0] <= window[1]:
        scale = 2.0 ** _between(window)
        return Remedy(
            action="set_loss_scale",
            arguments={"loss_scale": scale, "window": list(window)},
        )
    return Remedy(
        action="use_precision",
        arguments={"dtype": "bfloat16" if dtype == "float16" else "float32"},
    )


def _between(window: tuple[float, float]) -> int:
    """Return the exponent of a power of two a factor of 4 below the overflow; of the middle in a narrow window."""
    low, high = _log2(window[0]), _log2(window[1])
    return int(high - 2) if high - 2 >= low else int((low + high) / 2)


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else -126.0


RULE = Rule(
    id="low_precision_underflow",
    title="Gradients underflow in low precision",
    what="Share of non-zero gradient elements with |S·g| ≤ 2⁻²⁵ in float16 (2⁻¹³⁴ in bfloat16), S the loss scale.",
    why=(
        "float16 has no numbers between 0 and 6e-8. Smaller gradients become zero, and the weights that got them stop "
        "learning without any error. Loss scaling moves them into range. Judged at the declared precision and scale."
    ),
    unit="share of elements",
    compares="above",
    largest=1.0,
    reference="Micikevicius et al. 2018, Mixed precision training, section 3.2",
    check=check,
    if_it_learns="warn",
    warn=Level(0.01, "chosen: the smallest elements of a healthy gradient lose less than 1 %"),
    fail=Level(0.5, "chosen: most of the gradient is gone"),
)
