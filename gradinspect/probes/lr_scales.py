"""The section `lr_scales`: measure, suggest, test, and try remedies where scales cannot help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradinspect.contracts.optimizers import ASSUMED, Optimizer
from gradinspect.contracts.report.scale_code import with_scale_code
from gradinspect.contracts.report.sections import (
    LrScales,
    ScaleCandidate,
    ScaleEvidence,
    ScaleRemedy,
    ScalesVerdict,
)
from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.probes.remedies.probe import probe_remedies, signal_fails
from gradinspect.probes.scales.candidates import DEFAULT_METHOD, STAND_IN, UNIFORM, Candidate, make_candidates
from gradinspect.probes.scales.curvature import GroupCurvature, measure_curvature
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.scales.measurement import GroupMeasurement, measure_groups
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.gate import Gate, Probe
from gradinspect.probes.verify.probe_data import ProbeData, probe_data
from gradinspect.probes.verify.search import Arm
from gradinspect.probes.verify.training import Start, Trainer

WORTH_A_PROBE_DEX = 0.5  # where the scales spread less, the benefit was nil in every net of the study
WITHOUT_MINIMUM = frozenset({"output_mean", "random_cotangent"})
ADAPTIVE_REASON = "Adam divides every element's step by its own gradient: over uniform rates nothing was seen to help"


def suggest_scales(s: SectionInput) -> SectionResult:
    """Suggest learning-rate scales and, where requested, test them on this model.

    Cost without verification: at most 2·(2L forward passes and one backward pass), L the number of groups. With it, the
    probes' training steps, within `lr_scales.max_steps` and `lr_scales.max_seconds`.
    """
    groups = make_groups(s)
    if not groups:
        return _undetermined("no parameter is trained, so there is no learning rate to scale")
    lacking = refused(s.budget, s.pass_seconds)
    if lacking is not None:
        return _undetermined(lacking)
    measured = measure_groups(s, groups)
    unusable = _why_unusable(measured)
    if unusable is not None:
        return _undetermined(unusable)
    suggestion = _Suggestion(s, measured, make_candidates(measured, _affordable_curvature(s, measured)))
    section = suggestion.untested()
    if section is None:
        section = suggestion.tested()
    return SectionResult(with_scale_code(section, s.settings.optimizer))


def _undetermined(reason: str) -> SectionResult:
    return SectionResult(LrScales(status="undetermined", reason=reason))


def _why_unusable(measured: Sequence[GroupMeasurement]) -> str | None:
    """Name the first weight that is not finite, else the first such gradient, else say that all gradients are zero."""
    weight = next((m.broken_weight for m in measured if m.broken_weight is not None), None)
    if weight is not None:
        return f"the weight {weight} is not finite"
    gradient = next((m.broken_gradient for m in measured if m.broken_gradient is not None), None)
    if gradient is not None:
        return f"the gradient of {gradient} is not finite"
    if not any(m.has_gradient for m in measured):
        return "every gradient is exactly zero, so no scale can be computed from it"
    return None


def _affordable_curvature(s: SectionInput, measured: Sequence[GroupMeasurement]) -> GroupCurvature | None:
    """Measure the curvature, where more than one group moves and the budget allows its passes."""
    moving = sum(m.has_gradient for m in measured)
    return measure_curvature(s, measured) if moving > 1 and s.budget.allows(moving * s.pass_seconds) else None


@dataclass(frozen=True, eq=False)
class _Suggestion:
    """The candidates for one model, and the answer about them, without or with a test."""

    s: SectionInput
    measured: Sequence[GroupMeasurement]
    candidates: Sequence[Candidate]

    @property
    def request(self) -> LrScalesRequest:
        return self.s.settings.lr_scales or LrScalesRequest()

    @property
    def optimizer(self) -> Optimizer:
        return self.s.settings.optimizer or ASSUMED

    @property
    def default(self) -> Candidate:
        """Return newton's scales, or equalize's where newton could not compute any."""
        known = {c.method: c for c in self.candidates if c.reason is None}
        return known.get(DEFAULT_METHOD, known[STAND_IN])

    def untested(self) -> LrScales | None:
        """Answer without a probe: it was not requested, or could not change the answer. None where a probe is due."""
        spread = max((c.spread or 0.0) for c in self.candidates)
        loss = self.s.settings.loss
        if spread < WORTH_A_PROBE_DEX:
            reason = f"the scales span {spread:.2f} powers of ten; below {WORTH_A_PROBE_DEX} they have never helped"
            return self._unprobed("keep_uniform", UNIFORM, reason)
        if not self.request.verify and self.optimizer.is_adaptive:
            return self._unprobed("keep_uniform", UNIFORM, ADAPTIVE_REASON)
        if not self.request.verify:
            return self._unprobed("undetermined", self.default.method, "computed, and not tested on this model")
        if loss in WITHOUT_MINIMUM and self.s.target is None:
            reason = f"the loss {loss} has no minimum to train towards, so a probe would show nothing"
            return self._unprobed("undetermined", self.default.method, reason)
        return None

    def _unprobed(self, verdict: ScalesVerdict, method: str, reason: str) -> LrScales:
        chosen = next(c for c in self.candidates if c.method == method)
        return LrScales(
            verdict=verdict,
            reason=reason,
            method=method,
            groups=chosen.groups(self.measured),
            candidates=self._rows(None),
        )

    def tested(self) -> LrScales:
        """Train uniform and every candidate, and try remedies where no scale helps or the signal fails."""
        s, request = self.s, self.request
        data = probe_data(s)
        trainer = Trainer(s, data, [entry for m in self.measured for entry in m.group.entries])
        budget = ProbeBudget.of_scales(s, request)
        with trainer.borrowed():
            starts = trainer.starts(request.seeds)
            gate = Gate(s, trainer, budget, starts, steps=request.probe_steps)
            probe = gate.probe(self._arms(starts))
            verdict = probe.decision.verdict if probe.decision is not None else "undetermined"
            remedies: tuple[ScaleRemedy, ...] = ()
            if verdict == "none_learns" or (verdict != "undetermined" and signal_fails(s)):
                remedies = probe_remedies(s, trainer, gate, starts, self.measured, steps=probe.steps)
        method = probe.decision.arm if probe.decision is not None else self.default.method
        chosen = next((c for c in self.candidates if c.method == method), self.candidates[0])
        return LrScales(
            verdict=verdict,
            reason=probe.undecided,
            method=method,
            base_lr=probe.base_lr,
            groups=chosen.groups(self.measured),
            candidates=self._rows(probe),
            evidence=self._evidence(data, probe, budget),
            remedies=remedies,
        )

    def _arms(self, starts: Sequence[Start]) -> list[Arm]:
        update = steps_of(self.optimizer).update
        return [
            Arm(
                name=candidate.method,
                update=update,
                scales=[
                    scale for scale, m in zip(candidate.scales, self.measured, strict=True) for _ in m.group.entries
                ],
                centre=self._centre(candidate),
                starts=starts,
            )
            for candidate in _distinct(self.candidates)
        ]

    def _centre(self, candidate: Candidate) -> float:
        """Return where this arm's search begins: the quadratic model's rate, else one that moves weights by 1 %."""
        if self.optimizer.is_adaptive:
            return self.optimizer.probe_centre
        slowed = 1.0 - self.optimizer.memory  # a steady gradient moves 1/(1 − momentum) as far
        if candidate.base_rate is not None:
            return candidate.base_rate * slowed
        weights = math.sqrt(sum(m.weight_norm**2 for m in self.measured))
        step = math.sqrt(sum((r * m.grad_norm) ** 2 for r, m in zip(candidate.scales, self.measured, strict=True)))
        return 0.01 * (weights or 1.0) / step * slowed

    def _rows(self, probe: Probe | None) -> tuple[ScaleCandidate, ...]:
        return tuple(self._row(c, probe) for c in self.candidates if c.method != UNIFORM)

    def _row(self, candidate: Candidate, probe: Probe | None) -> ScaleCandidate:
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
            groups=candidate.groups(self.measured) if candidate.scales else (),
            reason=reason,
        )

    def _evidence(self, data: ProbeData, probe: Probe, budget: ProbeBudget) -> ScaleEvidence:
        request, optimizer = self.request, self.optimizer.type
        seeds_are: Literal["initialisations", "data_orders"] = (
            "initialisations" if self.s.rebuild is not None else "data_orders"
        )
        runs = f"{request.seeds} {seeds_are.replace('_', ' ')} with {optimizer}"
        return ScaleEvidence(
            statement=(
                f"The evidence covers the first {probe.steps} steps of {runs}, {data.batch_size} of {data.samples} "
                "samples a step; later training was not measured."
            ),
            steps=probe.steps,
            seeds=request.seeds,
            confirming_seeds=request.seeds if probe.confirmed is not None else 0,
            seeds_are=seeds_are,
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


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out candidates whose scales equal another's: the same arm twice would be the same evidence twice."""
    distinct: dict[tuple[float, ...], Candidate] = {}
    for candidate in candidates:
        if candidate.scales:
            distinct.setdefault(tuple(round(math.log10(scale), 6) for scale in candidate.scales), candidate)
    return list(distinct.values())
