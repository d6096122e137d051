"""The gate: run uniform and the candidates on the caller's model, and say which, if any, is worth using.

Source of the rules and their numbers: the study over 25 small networks that docs/lr-scales.md tells of.
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
_RAISE = "raise lr_scales.max_steps or lr_scales.max_seconds"


@dataclass(frozen=True, eq=False)
class Probe:
    """What the gate found.

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
        """Mean reference loss of the seeds."""
        return fmean(self.references)

    def comparison(self, name: str) -> Comparison | None:
        """A candidate against uniform; None where one of them has no result."""
        if self.confirmed is not None and self.confirmed[0] == name:
            return self.confirmed[1]
        candidate, uniform = self.results.get(name), self.results.get("uniform")
        return compare(candidate, uniform) if candidate is not None and uniform is not None else None

    def curves(self) -> tuple[ProbeCurve, ...]:
        """Every arm at its best rate, and the recommended one at the recommended rate."""
        shown = [*self.results.values(), *([self.safe] if self.safe is not None else [])]
        return tuple(ProbeCurve(arm=r.name, base_lr=r.base_lr, losses=r.losses) for r in shown)


class Gate:
    """Runs arms on one model; `arms[0]` is uniform. Use it inside `trainer.borrowed()`."""

    def __init__(
        self, s: SectionInput, trainer: Trainer, budget: ProbeBudget, starts: Sequence[Start], *, steps: int
    ) -> None:
        self._trainer, self._budget, self._steps = trainer, budget, steps
        self._search = RateSearch(trainer, budget, s.progress)
        self._references = tuple(reference_loss(s, trainer, start) for start in starts)

    def probe(self, arms: Sequence[Arm]) -> Probe:
        """Run all arms, extend once where uniform is on its plateau, and decide."""
        steps, is_extended = self._steps, False
        if not all(math.isfinite(loss) and loss > 0 for loss in self._references):
            return self._undecided("the loss is not positive, so its logarithm, which the gate compares, says nothing")
        results = self._run(arms, steps)
        if self._is_on_plateau(results):
            longer = self._run(arms, EXTENDED * steps)
            if self._budget.is_exhausted and not ("uniform" in longer and len(longer) > 1):
                return self._cut_short(results, steps)
            results, steps, is_extended = longer, EXTENDED * steps, True
        for arm in arms:
            if arm.name in results and has_learned(results[arm.name], self._references):
                results[arm.name] = self._search.refined(arm, results[arm.name], steps)
        if any(math.isnan(score) for result in results.values() for score in result.scores):
            return self._undecided("the loss became negative, so its logarithm, which the gate compares, says nothing")
        candidates = {name: result for name, result in results.items() if name != "uniform"}
        if self._budget.is_exhausted and not ("uniform" in results and candidates):
            return self._undecided(
                f"the budget ended after {self._budget.steps_run} steps, too few for uniform and a candidate on every "
                f"seed; {_RAISE}"
            )
        decision = decide(results.get("uniform"), candidates, self._references)
        if decision.verdict == "none_learns" and self._budget.is_exhausted:
            return self._cut_short(results, steps)
        confirmed = self._confirmed(arms, results, decision, steps)
        if confirmed is not None and not confirmed[1].is_worth_it:
            decision = without_candidates(results["uniform"], self._references)
        found = Probe(steps, is_extended, self._references, results, decision, confirmed)
        chosen = next((arm for arm in arms if arm.name == decision.arm), None)
        if chosen is None:
            return found
        k = results[chosen.name].k - HALF_DECADE
        return replace(found, base_lr=chosen.rate(k), safe=self._search.at(chosen, k, steps))

    def _confirmed(
        self, arms: Sequence[Arm], results: Mapping[str, ArmResult], decision: Decision, steps: int
    ) -> tuple[str, Comparison] | None:
        """The best candidate against uniform on as many seeds again, at the rates that were best on the first.

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
        if uniform is None:  # it diverged where it had not before: bad luck, and no candidate's merit
            uniform = self._search.at(again["uniform"], rates["uniform"] - HALF_DECADE, steps)
        candidate = self._search.at(again[decision.arm], rates[decision.arm], steps)
        if self._budget.is_exhausted or uniform is None:
            return None
        further = compare(candidate, uniform) if candidate is not None else DIVERGED
        return decision.arm, together(compare(results[decision.arm], results["uniform"]), further)

    def try_remedy(self, arm: Arm, steps: int) -> tuple[ArmResult | None, bool]:
        """A remedy at its best rate, and whether it learned: judged against the model's own reference loss."""
        result = self._search.best(arm, steps)
        return result, result is not None and has_learned(result, self._references)

    @property
    def reference(self) -> float:
        """Mean reference loss of the seeds."""
        return fmean(self._references)

    def _is_on_plateau(self, results: Mapping[str, ArmResult]) -> bool:
        return "uniform" in results and not has_learned(results["uniform"], self._references)

    def _cut_short(self, results: Mapping[str, ArmResult], steps: int) -> Probe:
        """What can be said of a plateau that there was no budget to outlast."""
        reason = f"the budget ended while the arms were still on their plateau; {_RAISE}"
        decision = Decision("inconclusive_plateau", None) if len(results) > 1 else None
        return Probe(steps, steps > self._steps, self._references, results, decision, undecided=reason)

    def _run(self, arms: Sequence[Arm], steps: int) -> dict[str, ArmResult]:
        found = {arm.name: self._search.best(arm, steps) for arm in arms}
        return {name: result for name, result in found.items() if result is not None}

    def _undecided(self, reason: str) -> Probe:
        return Probe(self._steps, False, self._references, {}, None, undecided=reason)


def reference_loss(s: SectionInput, trainer: Trainer, start: Start) -> float:
    """What an arm has to beat: the initial loss, or that of the best constant output where this is smaller.

    A network whose first loss lies above ln K gets to ln K by learning the classes' frequencies in its last bias,
    still on the plateau for everything else.
    """
    return min([trainer.initial_loss(start), *_constant_losses(s, trainer.data)])


def _constant_losses(s: SectionInput, data: ProbeData) -> list[float]:
    """Losses of constant outputs that are best for the common losses: log frequencies, the mean, its log odds."""
    target, shape = data.target, s.reading.output_shape
    if target is None:
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
