"""The section `lr_scales`: measure, suggest, test, and try remedies where scales cannot help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from gradinspect.contracts.optimizers import ASSUMED
from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.sections import MAX_CODE, LrScales, ScaleCandidate, ScaleEvidence
from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.probes.remedies.probe import probe_remedies, signal_fails
from gradinspect.probes.scales.candidates import DEFAULT_METHOD, Candidate, make_candidates
from gradinspect.probes.scales.curvature import GroupCurvature, measure_curvature
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.scales.measurement import GroupMeasurement, measure_groups
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.gate import Gate, Probe
from gradinspect.probes.verify.probe_data import ProbeData, probe_data
from gradinspect.probes.verify.search import Arm
from gradinspect.probes.verify.training import Trainer

WORTH_A_PROBE_DEX = 0.5  # where the scales spread less, the benefit was nil in every net of the study
WITHOUT_MINIMUM = frozenset({"output_mean", "random_cotangent"})
ADAM_REASON = "Adam divides every element's step by its own gradient: over uniform rates nothing was seen to help"


def suggest_scales(s: SectionInput) -> SectionResult:
    """Suggest learning-rate scales and, where it was asked for, test them on this model.

    Cost without verification: at most 2·(2L forward passes and one backward pass), L the number of groups. With it, the
    probes' training steps, within `lr_scales.max_steps` and `lr_scales.max_seconds`.
    """
    request = s.settings.lr_scales or LrScalesRequest()
    groups = make_groups(s)
    if not groups:
        return _undetermined("no parameter is trained, so there is no learning rate to scale")
    lacking = refused(s.budget, s.pass_seconds)
    if lacking is not None:
        return _undetermined(lacking)
    measured = measure_groups(s, groups)
    broken = _what_is_broken(measured)
    if broken is not None:
        return _undetermined(f"{broken} is not finite")
    if not any(m.has_gradient for m in measured):
        return _undetermined("every gradient is exactly zero, so no scale can be computed from it")
    candidates = make_candidates(measured, _affordable_curvature(s, measured))
    spread = max((c.spread or 0.0) for c in candidates)
    if spread < WORTH_A_PROBE_DEX:
        reason = f"the scales lie within {spread:.2f} powers of ten; under {WORTH_A_PROBE_DEX} they have never helped"
        return _unprobed(s, measured, candidates, "keep_uniform", "uniform", reason)
    if not request.verify:
        if s.settings.optimizer is not None and s.settings.optimizer.is_adaptive:
            return _unprobed(s, measured, candidates, "keep_uniform", "uniform", ADAM_REASON)
        method = _default(candidates).method
        return _unprobed(s, measured, candidates, "undetermined", method, "computed, and not tested on this model")
    if s.settings.loss in WITHOUT_MINIMUM and s.target is None:
        reason = f"the loss {s.settings.loss} has no minimum to train towards, so a probe would show nothing"
        return _unprobed(s, measured, candidates, "undetermined", _default(candidates).method, reason)
    return _verified(s, request, measured, candidates)


def _undetermined(reason: str) -> SectionResult:
    return SectionResult(LrScales(status="undetermined", reason=reason))


def _what_is_broken(measured: Sequence[GroupMeasurement]) -> str | None:
    """The first weight that is not finite; without one, the first gradient."""
    weight = next((m.broken_weight for m in measured if m.broken_weight is not None), None)
    gradient = next((m.broken_gradient for m in measured if m.broken_gradient is not None), None)
    return f"the weight {weight}" if weight else f"the gradient of {gradient}" if gradient else None


def _affordable_curvature(s: SectionInput, measured: Sequence[GroupMeasurement]) -> GroupCurvature | None:
    """The curvature, where more than one group moves and the budget allows its passes."""
    moving = sum(m.has_gradient for m in measured)
    return measure_curvature(s, measured) if moving > 1 and s.budget.allows(moving * s.pass_seconds) else None


def _default(candidates: Sequence[Candidate]) -> Candidate:
    """newton, or equalize where newton has nothing to say."""
    known = {c.method: c for c in candidates if c.reason is None}
    return known.get(DEFAULT_METHOD, known["equalize"])


def _unprobed(
    s: SectionInput,
    measured: Sequence[GroupMeasurement],
    candidates: Sequence[Candidate],
    verdict: Literal["keep_uniform", "undetermined"],
    method: str,
    reason: str,
) -> SectionResult:
    chosen = next(c for c in candidates if c.method == method)
    section = LrScales(
        verdict=verdict,
        reason=reason,
        method=method,
        groups=chosen.groups(measured),
        candidates=tuple(_row(c, measured, None) for c in candidates if c.method != "uniform"),
    )
    return SectionResult(_with_code(s, section))


def _with_code(s: SectionInput, section: LrScales) -> LrScales:
    code = optimizer_code(section, optimizer=s.settings.optimizer)
    return section.model_copy(update={"code": code if len(code) <= MAX_CODE else None})


def _row(candidate: Candidate, measured: Sequence[GroupMeasurement], probe: Probe | None) -> ScaleCandidate:
    comparison = probe.comparison(candidate.method) if probe is not None else None
    result = probe.results.get(candidate.method) if probe is not None else None
    reason = candidate.reason
    if probe is not None and probe.decision is not None and reason is None and result is None:
        reason = "it diverged at every base rate, or the budget ended before it was tried on every seed"
    return ScaleCandidate(
        method=candidate.method,
        spread_dex=candidate.spread,
        base_lr=result.base_lr if result is not None else None,
        ratio=finite(comparison.ratio) if comparison is not None else None,
        per_seed=tuple(map(finite, comparison.per_seed)) if comparison is not None else (),
        groups=candidate.groups(measured) if candidate.scales else (),
        reason=reason,
    )


def _verified(
    s: SectionInput,
    request: LrScalesRequest,
    measured: Sequence[GroupMeasurement],
    candidates: Sequence[Candidate],
) -> SectionResult:
    data = probe_data(s)
    entries = [entry for m in measured for entry in m.group.entries]
    trainer = Trainer(s, data, entries)
    budget = ProbeBudget(s, request)
    with trainer.borrowed():
        starts = trainer.starts(request.seeds)
        gate = Gate(s, trainer, budget, starts, steps=request.probe_steps)
        arms = [
            Arm(
                name=candidate.method,
                update=steps_of(s.settings.optimizer or ASSUMED).update,
                scales=_per_entry(candidate.scales, measured),
                centre=_centre(s, candidate, measured),
                starts=starts,
            )
            for candidate in _distinct(candidates)
        ]
        probe = gate.probe(arms)
        verdict = probe.decision.verdict if probe.decision is not None else "undetermined"
        remedies = (
            probe_remedies(s, trainer, gate, starts, measured, steps=probe.steps)
            if verdict == "none_learns" or (verdict != "undetermined" and signal_fails(s))
            else ()
        )
    method = probe.decision.arm if probe.decision is not None else _default(candidates).method
    chosen = next((c for c in candidates if c.method == method), candidates[0])
    section = LrScales(
        verdict=verdict,
        reason=probe.undecided,
        method=method,
        base_lr=probe.base_lr,
        groups=chosen.groups(measured),
        candidates=tuple(_row(c, measured, probe) for c in candidates if c.method != "uniform"),
        evidence=_evidence(s, request, data, probe, budget),
        remedies=remedies,
    )
    return SectionResult(_with_code(s, section))


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with scales of their own: the same arm twice would be the same evidence twice."""
    found: dict[tuple[float, ...], Candidate] = {}
    for candidate in candidates:
        if candidate.scales:
            found.setdefault(tuple(round(math.log10(scale), 6) for scale in candidate.scales), candidate)
    return list(found.values())


def _per_entry(scales: Sequence[float], measured: Sequence[GroupMeasurement]) -> list[float]:
    return [scale for scale, m in zip(scales, measured, strict=True) for _ in m.group.entries]


def _centre(s: SectionInput, candidate: Candidate, measured: Sequence[GroupMeasurement]) -> float:
    """Where this arm's search begins: the quadratic model's rate, else one that moves weights by one percent."""
    optimizer = s.settings.optimizer or ASSUMED
    if optimizer.is_adaptive:
        return optimizer.probe_centre
    slowed = 1.0 - optimizer.memory  # a steady gradient moves 1/(1 − momentum) as far
    if candidate.base_rate is not None:
        return candidate.base_rate * slowed
    weights = math.sqrt(sum(m.weight_norm**2 for m in measured))
    step = math.sqrt(sum((r * m.grad_norm) ** 2 for r, m in zip(candidate.scales, measured, strict=True)))
    return 0.01 * (weights or 1.0) / step * slowed


def _evidence(
    s: SectionInput, request: LrScalesRequest, data: ProbeData, probe: Probe, budget: ProbeBudget
) -> ScaleEvidence:
    kind = "initialisations" if s.rebuild is not None else "data orders"
    optimizer = (s.settings.optimizer or ASSUMED).type
    return ScaleEvidence(
        statement=(
            f"The evidence covers the first {probe.steps} steps of {request.seeds} {kind} with {optimizer}, "
            f"{data.batch_size} of {data.samples} samples a step; later training was not measured."
        ),
        steps=probe.steps,
        seeds=request.seeds,
        confirming_seeds=request.seeds if probe.confirmed is not None else 0,
        seeds_are="initialisations" if s.rebuild is not None else "data_orders",
        is_synthetic=data.is_synthetic,
        samples=data.samples,
        batch_size=data.batch_size,
        reference_loss=finite(probe.reference),
        is_extended=probe.is_extended,
        is_complete=not budget.is_exhausted,
        optimizer=optimizer,
        steps_run=budget.steps_run,
        max_steps=request.max_steps,
        max_seconds=request.max_seconds,
        curves=probe.curves(),
    )
