"""The gate: run uniform and the candidates on the caller's model, and decide which, if any, is worth using.

Source of the rules and their numbers: the study over 25 small networks in benchmarks/scales_study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from gradinspect.contracts.report.sections import ProbeCurve
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.decision import (
    DIVERGED,
    Comparison,
    Decision,
    compare,
    decide,
    has_learned,
    together,
    without_candidates,
)
from gradinspect.probes.verify.probe_data import ProbeData
from gradinspect.probes.verify.search import HALF_DECADE, Arm, ArmResult, RateSearch
from gradinspect.probes.verify.training import Start, Trainer

EXTENDED = 3  # times T, once, while uniform is on its plateau
_BUDGET = "max_steps and max_seconds of lr_scales set this budget, and shorter probes (probe_steps) use less of it"


@dataclass(frozen=True, eq=False)
class Probe:
    """The gate's answer and its evidence.

    Attributes:
        results: arm → result at its best rate; arms that could not be run to the end are left out.
        confirmed: the best candidate, and how it compares with uniform over the first and the confirming seeds
            together; None where no candidate qualified, or the budget ended before.
        base_lr: half a decade under the chosen arm's best rate: what is recommended.
        safe: the chosen arm at that rate; None without one, or where the budget ended before.
        undecided: why nothing, or no more, could be decided.
    """

    steps: int
    is_extended: bool
    references: tuple[float, ...]
    results: Mapping[str, ArmResult]
    decision: Decision | None
    confirmed: tuple[str, Comparison] | None = None
    base_lr: float | None = None
    safe: ArmResult | None = None
    undecided: str | None = None

    @property
    def reference(self) -> float:
        """Return the mean reference loss of the seeds."""
        return fmean(self.references)

    def comparison(self, name: str) -> Comparison | None:
        """Compare a candidate with uniform; None where one of them has no result."""
        if self.confirmed is not None and self.confirmed[0] == name:
            return self.confirmed[1]
        candidate, uniform = self.results.get(name), self.results.get("uniform")
        return compare(candidate, uniform) if candidate is not None and uniform is not None else None

    def curves(self) -> tuple[ProbeCurve, ...]:
        """Return every arm's curve at its best rate, and the recommended arm's at the recommended rate."""
        shown = [*self.results.values(), *([self.safe] if self.safe is not None else [])]
        return tuple(ProbeCurve(arm=r.name, base_lr=r.base_lr, losses=r.losses) for r in shown)


class UndecidedError(Exception):
    """Raised where the gate cannot, or can no longer, decide.

    Attributes:
        decision: what can be said all the same.
        keeps: the results and the length of runs to report; None to report no runs.
    """

    def __init__(
        self,
        reason: str,
        *,
        decision: Decision | None = None,
        keeps: tuple[Mapping[str, ArmResult], int] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.decision, self.keeps = reason, decision, keeps


class Gate:
    """Runs arms on one model; `arms[0]` is uniform. Use it inside `trainer.borrowed()`.

    Args:
        s: the section's input.
        trainer: trains the model.
        budget: of all probes together.
        starts: one per seed.
        steps: T, the length of a run before any extension.
    """

    def __init__(
        self, s: SectionInput, trainer: Trainer, budget: ProbeBudget, starts: Sequence[Start], *, steps: int
    ) -> None:
        self._trainer, self._budget, self._steps = trainer, budget, steps
        self._search = RateSearch(trainer, budget, s.progress)
        self._references = tuple(reference_loss(s, trainer, start) for start in starts)

    def probe(self, arms: Sequence[Arm]) -> Probe:
        """Run all arms, extend the runs once where uniform is on its plateau, and decide."""
        try:
            return self._decided(arms)
        except UndecidedError as end:
            results, steps = end.keeps or ({}, self._steps)
            is_extended = steps > self._steps
            return Probe(steps, is_extended, self._references, results, end.decision, undecided=end.reason)

    def _decided(self, arms: Sequence[Arm]) -> Probe:
        if not all(math.isfinite(loss) and loss > 0 for loss in self._references):
            raise UndecidedError("the loss is not positive, so its logarithm, which the gate compares, says nothing")
        results, steps = self._results(arms)
        candidates = {name: result for name, result in results.items() if name != "uniform"}
        self._require_evidence(results)
        decision = decide(results.get("uniform"), candidates, self._references)
        if decision.verdict == "none_learns" and self._budget.is_exhausted:
            raise self._cut_short(results, steps)
        confirmed = self._confirmed(arms, results, decision, steps)
        if confirmed is not None and not confirmed[1].is_worth_it:
            decision = without_candidates(results["uniform"], self._references)
        probe = Probe(steps, steps > self._steps, self._references, results, decision, confirmed)
        chosen = next((arm for arm in arms if arm.name == decision.arm), None)
        if chosen is None:
            return probe
        k = results[chosen.name].k - HALF_DECADE
        return replace(probe, base_lr=chosen.rate(k), safe=self._search.at(chosen, k, steps))

    def _results(self, arms: Sequence[Arm]) -> tuple[dict[str, ArmResult], int]:
        """Run every arm at its best rate, refined where it learned.

        Returns:
            The results by arm, and the length of the runs.
        """
        results, steps = self._run(arms, self._steps), self._steps
        if self._is_on_plateau(results):
            longer = self._run(arms, EXTENDED * steps)
            if self._budget.is_exhausted and not ("uniform" in longer and len(longer) > 1):
                raise self._cut_short(results, steps)
            results, steps = longer, EXTENDED * steps
        for arm in arms:
            if arm.name in results and has_learned(results[arm.name], self._references):
                results[arm.name] = self._search.refined(arm, results[arm.name], steps)
        return results, steps

    def _require_evidence(self, results: Mapping[str, ArmResult]) -> None:
        """Require losses that can be compared, and uniform and a candidate on every seed unless all diverged."""
        if any(math.isnan(score) for result in results.values() for score in result.scores):
            raise UndecidedError("the loss became negative, so its logarithm, which the gate compares, says nothing")
        if self._budget.is_exhausted and not ("uniform" in results and len(results) > 1):
            raise UndecidedError(
                f"the budget ended after {self._budget.steps_run} steps, too few for uniform and a candidate on every "
                f"seed; {_BUDGET}"
            )

    def _confirmed(
        self, arms: Sequence[Arm], results: Mapping[str, ArmResult], decision: Decision, steps: int
    ) -> tuple[str, Comparison] | None:
        """Compare the best candidate with uniform on as many new seeds, at the rates that were best on the first.

        The best of several arms at the best of several rates owes a part of its lead to the seeds that chose it.
        """
        if decision.verdict != "use" or decision.arm is None or "uniform" not in results:
            return None
        pair = {arm.name: arm for arm in arms if arm.name in ("uniform", decision.arm)}
        count = len(pair["uniform"].starts)
        starts = self._trainer.starts(count, after=count)
        again = {name: replace(arm, starts=starts, runs={}) for name, arm in pair.items()}
        rates = {name: results[name].k for name in pair}
        uniform = self._search.at(again["uniform"], rates["uniform"], steps)
        if uniform is None:  # the baseline diverged on the confirmation seeds: retry it half a decade lower
            uniform = self._search.at(again["uniform"], rates["uniform"] - HALF_DECADE, steps)
        candidate = self._search.at(again[decision.arm], rates[decision.arm], steps)
        if self._budget.is_exhausted or uniform is None:
            return None
        further = compare(candidate, uniform) if candidate is not None else DIVERGED
        return decision.arm, together(compare(results[decision.arm], results["uniform"]), further)

    def try_remedy(self, arm: Arm, steps: int) -> tuple[ArmResult | None, bool]:
        """Run a remedy at its best rate; return its result and whether it learned, by the model's reference loss."""
        result = self._search.best(arm, steps)
        return result, result is not None and has_learned(result, self._references)

    @property
    def reference(self) -> float:
        """Return the mean reference loss of the seeds."""
        return fmean(self._references)

    def _is_on_plateau(self, results: Mapping[str, ArmResult]) -> bool:
        return "uniform" in results and not has_learned(results["uniform"], self._references)

    def _cut_short(self, results: Mapping[str, ArmResult], steps: int) -> UndecidedError:
        """Say what is known of a plateau that the budget was too small to leave."""
        decision = Decision("inconclusive_plateau", None) if len(results) > 1 else None
        reason = f"the budget ended while the arms were still on their plateau; {_BUDGET}"
        return UndecidedError(reason, decision=decision, keeps=(results, steps))

    def _run(self, arms: Sequence[Arm], steps: int) -> dict[str, ArmResult]:
        best = {arm.name: self._search.best(arm, steps) for arm in arms}
        return {name: result for name, result in best.items() if result is not None}


def reference_loss(s: SectionInput, trainer: Trainer, start: Start) -> float:
    """Return what an arm has to beat: the initial loss, or the best constant output's loss where this is smaller.

    A network whose first loss is above ln K gets to ln K by learning the classes' frequencies in its last bias,
    still on the plateau for everything else.
    """
    return min([trainer.initial_loss(start), *_constant_losses(s, trainer.data)])


def _constant_losses(s: SectionInput, data: ProbeData) -> list[float]:
    """Return the losses of the best constant outputs of common losses: log frequencies, the mean, its log odds."""
    target, shape = data.target, s.reading.output_shape
    if not isinstance(target, torch.Tensor):
        return []
    dtype = next((e.tensor.dtype for e in s.parameters if e.tensor.is_floating_point()), torch.float32)
    constants: list[torch.Tensor] = []
    if not target.is_floating_point():
        axis = len(shape) - 1 if tuple(target.shape) == tuple(shape[:-1]) else 1
        if len(shape) > 1 and int(target.max()) < shape[axis] and int(target.min()) >= 0:
            counts = torch.bincount(target.flatten(), minlength=shape[axis]).double()
            logits = (counts / counts.sum()).clamp_min(1e-6).log().to(dtype)
            view = [shape[axis] if i == axis else 1 for i in range(len(shape))]
            constants.append(logits.reshape(view).expand(shape))
    elif tuple(target.shape) == tuple(shape):
        mean = target.mean(dim=0, keepdim=True).to(dtype)
        constants.append(mean.expand(shape))
        if float(target.min()) >= 0 and float(target.max()) <= 1:
            constants.append(torch.logit(mean.clamp(1e-6, 1 - 1e-6)).expand(shape))
    with torch.no_grad():
        losses = [float(s.loss_between(constant, target)) for constant in constants]
    return [loss for loss in losses if math.isfinite(loss)]
