"""The search for an arm's own best base rate, and its runs on every seed at that rate.

An arm that is compared at another's rate loses for the wrong reason. Rates are half a decade apart around the arm's
centre; they are searched on the first seed, from the centre outwards, and the best one and its neighbours are run on
all seeds. Seed and data order are the same for all arms. A rate between the best and its better neighbour then halves
the grid's error, which on networks that learn well would decide more than the scales do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from gradinspect.engine.network.optimizers import Update
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.curves import final_loss, geometric_mean_curve, mean_log_loss
from gradinspect.probes.verify.training import Run, Start, Trainer

LOWEST, HIGHEST = -6, 3  # k of η*·10^(k/2)
EXTENSION = 6  # further rates beyond an edge that turns out best
SLOWER_IN_VAIN = 2  # rates in a row; chosen: one may be a plateau's noise
HALF_DECADE = 1.0  # in k
EDGE_MARGIN = 0.01  # in A; a smaller lead over the neighbour is a plateau's noise, and no reason to go further
# Share of T at which a run is checked → how far its A may be above the best rate's A at the same step. Chosen wide:
# a run that is 1.35 times as high over half of the probe would have to be 0.74 times as high over the other half.
CHECKPOINTS = ((0.25, 0.5), (0.5, 0.3))


@dataclass(eq=False)
class Arm:
    """One way to train.

    Attributes:
        name: the method, or the remedy.
        update: its step.
        scales: one multiplier of the base rate a parameter.
        centre: η*, where the search begins.
        starts: one a seed.
        runs: (k, seed's index) → run at the base rate centre·10^(k/2); k is whole but for refinements.
    """

    name: str
    update: Update
    scales: Sequence[float]
    centre: float
    starts: Sequence[Start]
    runs: dict[tuple[float, int], Run] = field(default_factory=dict)

    def rate(self, k: float) -> float:
        """Return the base rate in six significant digits, so that printed code has exactly the rate that was run."""
        return float(f"{self.centre * 10 ** (k / 2):.6g}")

    def score(self, k: float, seed: int, steps: int) -> float:
        """Return A of one run; infinite where it was dropped or is shorter than `steps`."""
        run = self.runs.get((k, seed))
        is_complete = run is not None and run.ended is None and len(run.losses) == steps
        return mean_log_loss(run.losses) if run is not None and is_complete else math.inf

    def mean_score(self, k: float, steps: int) -> float:
        """Return the mean of A over the seeds; infinite where one run is shorter than `steps`."""
        return fmean(self.score(k, seed, steps) for seed in range(len(self.starts)))


@dataclass(frozen=True, eq=False)
class ArmResult:
    """An arm at its best base rate, on every seed.

    Attributes:
        scores: A for each seed.
        finals: smoothed loss at the end for each seed.
        losses: geometric mean of the seeds' curves.
        k: index of the rate in the arm's grid; a half-integer after refinement.
    """

    name: str
    k: float
    base_lr: float
    scores: tuple[float, ...]
    finals: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def score(self) -> float:
        """Return the mean of A over the seeds."""
        return fmean(self.scores)

    @property
    def final(self) -> float:
        """Return the mean of the smoothed losses at the end."""
        return fmean(self.finals)


class RateSearch:
    """Runs arms within a budget."""

    def __init__(self, trainer: Trainer, budget: ProbeBudget, progress: Callable[[float], None]) -> None:
        self._trainer, self._budget, self._progress = trainer, budget, progress

    def best(self, arm: Arm, steps: int) -> ArmResult | None:
        """Find the arm's best rate at this length; runs of an earlier, shorter search are continued.

        Returns:
            None when no rate could be run on every seed: all diverged, or the budget ended.
        """
        self._search(arm, steps)
        scores = {k: arm.score(k, 0, steps) for k in sorted(k for k, seed in arm.runs if seed == 0)}
        if not scores or math.isinf(min(scores.values())):
            return None
        middle = min(scores, key=scores.__getitem__)
        for k in (middle, middle - HALF_DECADE, middle + HALF_DECADE):
            if not math.isinf(scores.get(k, math.inf)):
                for seed in range(1, len(arm.starts)):
                    self._run(arm, k, seed, steps, arm.runs.get((middle, seed)) if k != middle else None)
        return _best_complete(arm, steps) or self._fastest_safe(arm, middle, steps)

    def _fastest_safe(self, arm: Arm, above: float, steps: int) -> ArmResult | None:
        """Return the fastest rate below `above` at which no seed diverges."""
        slower = (above - HALF_DECADE * steps_down for steps_down in range(1, EXTENSION))
        return next((result for k in slower if (result := self.at(arm, k, steps)) is not None), None)

    def refined(self, arm: Arm, best: ArmResult, steps: int) -> ArmResult:
        """Try the rate halfway to the better neighbour, or halfway to both if neither was run to the end."""
        below, above = (arm.mean_score(best.k + step, steps) for step in (-HALF_DECADE, HALF_DECADE))
        sides = (-1, 1) if math.isinf(below) and math.isinf(above) else (1,) if above < below else (-1,)
        for side in sides:
            for seed in range(len(arm.starts)):
                self._run(arm, best.k + side * HALF_DECADE / 2, seed, steps, arm.runs[best.k, seed])
        return _best_complete(arm, steps) or best

    def at(self, arm: Arm, k: float, steps: int) -> ArmResult | None:
        """Run the arm at one rate on every seed; None when a run diverges, or the budget ends."""
        for seed in range(len(arm.starts)):
            if (run := arm.runs.get((k, seed))) is not None and run.ended == "dropped":
                del arm.runs[k, seed]
            run = self._run(arm, k, seed, steps, None)
            if run is None or run.ended is not None:
                return None
        return None if math.isinf(arm.mean_score(k, steps)) else _result(arm, k)

    def _search(self, arm: Arm, steps: int) -> None:
        """Run the grid on the first seed, then beyond an edge that is best.

        Nothing is run faster than a rate that diverges, further from the best than one that was dropped, or slower than
        two in a row that were no better. Upwards the grid is run to its end, as only fast rates may leave a plateau.
        """
        best: int | None = None
        lowest, highest = LOWEST, HIGHEST
        no_better = 0
        for k in sorted(range(LOWEST, HIGHEST + 1), key=lambda k: (abs(k), k)):
            if not lowest <= k <= highest:
                continue
            run = self._run(arm, k, 0, steps, arm.runs.get((best, 0)) if best is not None else None)
            if run is None:
                break
            if run.ended == "diverged" or (run.ended == "dropped" and best is not None and k > best):
                highest = min(highest, k - 1)
            elif run.ended == "dropped":
                lowest = max(lowest, k + 1)
            elif best is None or arm.score(k, 0, steps) < arm.score(best, 0, steps):
                best, no_better = k, 0
            elif k < best:
                no_better += 1
                lowest = max(lowest, k) if no_better == SLOWER_IN_VAIN else lowest
        for edge, step in ((HIGHEST, 1), (LOWEST, -1)):
            for k in range(edge, edge + step * EXTENSION, step):
                if not arm.score(k, 0, steps) < arm.score(k - step, 0, steps) - EDGE_MARGIN:
                    break
                self._run(arm, k + step, 0, steps, arm.runs[k, 0])

    def _run(self, arm: Arm, k: float, seed: int, steps: int, rival: Run | None) -> Run | None:
        """Bring one run to this length, unless it diverges or falls clearly behind its rival on the way.

        Returns:
            None when the budget does not allow it; a run that was begun is then dropped.
        """
        run = arm.runs.get((k, seed))
        if run is not None and (run.ended is not None or len(run.losses) >= steps):
            return run
        if not self._budget.allows(steps - (len(run.losses) if run is not None and run.reached is not None else 0)):
            if run is not None:
                self._trainer.drop(run)
            return None
        if run is None:
            run = arm.runs[k, seed] = Run(arm.starts[seed], arm.update, [arm.rate(k) * scale for scale in arm.scales])
        for share, margin in (*CHECKPOINTS, (1.0, math.inf)):
            until = round(share * steps)
            if until <= len(run.losses):
                continue
            before = self._trainer.steps_run
            self._trainer.train(run, until - len(run.losses), self._budget.in_time)
            self._budget.spend(self._trainer.steps_run - before)
            if run.ended is None and len(run.losses) < until:  # out of time
                self._trainer.drop(run)
                return None
            if run.ended is None and rival is not None and len(rival.losses) >= until:
                lag = mean_log_loss(run.losses) - mean_log_loss(rival.losses[:until])
                if lag > margin:
                    self._trainer.drop(run)
            if run.ended is not None:
                break
        self._trainer.keep(run)
        self._progress(self._budget.fraction_spent)
        return run


def _best_complete(arm: Arm, steps: int) -> ArmResult | None:
    """Return the best among the rates that were run on every seed."""
    scores = {k: arm.mean_score(k, steps) for k in sorted({k for k, _ in arm.runs})}
    k = min(scores, key=scores.__getitem__)
    return None if math.isinf(scores[k]) else _result(arm, k)


def _result(arm: Arm, k: float) -> ArmResult:
    curves = [arm.runs[k, seed].losses for seed in range(len(arm.starts))]
    scores = tuple(map(mean_log_loss, curves))
    return ArmResult(arm.name, k, arm.rate(k), scores, tuple(map(final_loss, curves)), geometric_mean_curve(curves))
