"""Every method's suggestion for one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.sections import ScaleGroup
from gradinspect.probes.scales.curvature import GroupCurvature
from gradinspect.probes.scales.joint_newton import best_base_rate, joint_newton
from gradinspect.probes.scales.measurement import GroupMeasurement
from gradinspect.probes.scales.methods import equalize, newton, trust_ratio, uniform
from gradinspect.probes.scales.normalise import filled, normalised, spread_dex

UNIFORM, DEFAULT_METHOD, STAND_IN = "uniform", "newton", "equalize"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One method's scales.

    Attributes:
        scales: one a group, geometric mean 1 over the groups that have a gradient; empty where `reason` says why.
        equalized: indices of the groups whose scale equalize replaced.
        spread: log10 of the largest over the smallest, over the groups that have a gradient.
        base_rate: where the quadratic model would step to; None where there is no curvature.
    """

    method: str
    scales: tuple[float, ...] = ()
    equalized: frozenset[int] = frozenset()
    spread: float | None = None
    base_rate: float | None = None
    reason: str | None = None

    def groups(self, measured: Sequence[GroupMeasurement]) -> tuple[ScaleGroup, ...]:
        """Make the report's rows."""
        return tuple(
            m.group.report(scale).model_copy(
                update={
                    "grad_norm": m.grad_norm,
                    "weight_norm": m.weight_norm,
                    "cv": m.cv,
                    "note": "no_gradient" if not m.has_gradient else "equalized" if i in self.equalized else None,
                }
            )
            for i, (m, scale) in enumerate(zip(measured, self.scales, strict=True))
        )


def make_candidates(measured: Sequence[GroupMeasurement], curvature: GroupCurvature | None) -> list[Candidate]:
    """Compute every method's scales: uniform first, then the default, then the others.

    Args:
        curvature: None where it was not affordable.
    """
    stand_in = equalize(measured)
    raw: dict[str, list[float | None]] = {UNIFORM: uniform(measured)}
    reasons: dict[str, str] = {}
    if curvature is None:
        reasons = dict.fromkeys(("newton", "joint_newton"), "the budget did not allow a derivative for each group")
    elif not curvature.is_convex:
        reasons = dict.fromkeys(
            ("newton", "joint_newton"), "the loss is not convex in the output; equalize replaces this method"
        )
    else:
        raw[DEFAULT_METHOD] = newton(measured, curvature)
        if curvature.form is None:
            reasons["joint_newton"] = "there are too many groups, or outputs too large, to measure every pair"
        else:
            raw["joint_newton"] = joint_newton(measured, curvature)
    raw["trust_ratio"] = trust_ratio(measured)
    raw[STAND_IN] = stand_in
    order = (UNIFORM, DEFAULT_METHOD, "joint_newton", "trust_ratio", STAND_IN)
    return [
        _candidate(method, raw[method], stand_in, measured, curvature)
        if method in raw
        else Candidate(method, reason=reasons[method])
        for method in order
    ]


def _candidate(
    method: str,
    raw: Sequence[float | None],
    stand_in: Sequence[float | None],
    measured: Sequence[GroupMeasurement],
    curvature: GroupCurvature | None,
) -> Candidate:
    moving = [i for i, m in enumerate(measured) if m.has_gradient]
    values = filled(raw, stand_in) if method != UNIFORM else raw
    scales = normalised([value if i in moving else None for i, value in enumerate(values)])
    usable = curvature is not None and curvature.is_convex
    return Candidate(
        method=method,
        scales=tuple(scales),
        equalized=frozenset(i for i in moving if raw[i] is None),
        spread=spread_dex([scales[i] for i in moving]),
        base_rate=best_base_rate(measured, curvature, scales) if usable and curvature is not None else None,
    )
