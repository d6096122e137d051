"""From the arms' results to a verdict, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from gradinspect.probes.verify.search import ArmResult

WORTH_IT = 0.9  # exp(A_candidate − A_uniform); a null arm's lay above it but for 2 of 64
LEARNED = 0.95  # of the reference loss; above it an arm is still on its plateau

Verdict = Literal["use", "keep_uniform", "inconclusive_plateau", "none_learns"]


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with uniform, each at its own best base rate."""

    ratio: float
    per_seed: tuple[float, ...]

    @property
    def is_worth_it(self) -> bool:
        """Check that the candidate is better by enough on average, and better on every seed."""
        return self.ratio <= WORTH_IT and all(ratio < 1 for ratio in self.per_seed)


DIVERGED = Comparison(math.inf, (math.inf,))


@dataclass(frozen=True)
class Decision:
    """The verdict, and the arm to train with."""

    verdict: Verdict
    arm: str | None


def compare(candidate: ArmResult, uniform: ArmResult) -> Comparison:
    """Compute exp(A_candidate − A_uniform), of the seeds' means and for each seed."""
    return _comparison([a - b for a, b in zip(candidate.scores, uniform.scores, strict=True)])


def together(first: Comparison, further: Comparison) -> Comparison:
    """Combine two comparisons into one over the seeds of both."""
    return _comparison([math.log(ratio) for ratio in (*first.per_seed, *further.per_seed)])


def has_learned(arm: ArmResult, references: Sequence[float]) -> bool:
    """Check that the arm ended at least 5 % below the reference loss, on average over the seeds."""
    return arm.final <= LEARNED * fmean(references)


def decide(uniform: ArmResult | None, candidates: Mapping[str, ArmResult], references: Sequence[float]) -> Decision:
    """Judge the arms of a probe that will not be extended further.

    Args:
        uniform: None where it diverged at every rate.
        candidates: results by name; arms without a result are left out.
        references: the reference loss of each seed.
    """
    learned = {name: arm for name, arm in candidates.items() if has_learned(arm, references)}
    if uniform is None or not has_learned(uniform, references):
        if not learned:
            return Decision("none_learns", None)
        if uniform is None:
            return Decision("use", min(learned, key=lambda name: learned[name].score))
    compared = {name: compare(arm, uniform) for name, arm in learned.items()}
    worth_it = [name for name, comparison in compared.items() if comparison.is_worth_it]
    if worth_it:
        return Decision("use", min(worth_it, key=lambda name: compared[name].ratio))
    return without_candidates(uniform, references)


def without_candidates(uniform: ArmResult, references: Sequence[float]) -> Decision:
    """Return the verdict where some arm learned and no candidate is better than uniform by enough."""
    is_learned = has_learned(uniform, references)
    return Decision("keep_uniform", "uniform") if is_learned else Decision("inconclusive_plateau", None)


def _comparison(differences: Sequence[float]) -> Comparison:
    return Comparison(math.exp(fmean(differences)), tuple(map(math.exp, differences)))
