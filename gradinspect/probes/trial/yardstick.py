"""From the losses of a run to what they show: learned, slow, at chance, diverged. Pure numbers.

Losses are read as skill: 0 is the best constant output, 1 is perfect. Skill does not depend on the unit of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from gradinspect.contracts.report.trial import ArmOutcome
from gradinspect.engine.rows.depth_decay import fit_line

LEARNED, SLOW = 0.5, 0.1  # skill
WINDOW = 5  # steps; the last ones' mean is read, so that one lucky step decides nothing
FEWEST = 10  # steps before a run may have learned
FIRST_LOOK, BETWEEN_LOOKS = 60, 20  # steps; healthy networks of the study have learned or are on their way by then
PATIENCE = 4.0  # a loss that would fall by `SLOW` in so many times the steps so far is falling, not on a plateau
SIGNIFICANT = 2.0  # standard errors of the slope
GROWTH = 1.1  # of the gain from one sixth of a run to the next; chosen: it is about that when a ReLU network sets out
CLEAR_LOOK = 100  # steps before which a run with any clear gain is not called a plateau
RAISED, LOST = 3.0, 1e3  # times the first loss above the floor: at the end, and at any step
RAISED_FOR = 20  # steps in a row above `RAISED` that end a run

Ended = Literal["learned", "diverged", "plateau", "too_slow", "steps", "budget"]


@dataclass(frozen=True)
class Yardstick:
    """The scale of one run's losses.

    Attributes:
        reference: the loss of skill 0: chance, or the first loss where chance is unknown or cannot be improved on.
        height: from there to skill 1.
        first: the first loss.
    """

    reference: float
    height: float
    first: float

    @classmethod
    def of(cls, *, chance: float | None, floor: float | None, first: float) -> Yardstick:
        """Make the scale.

        Args:
            chance: the best constant output's loss; None where unknown.
            floor: the smallest loss; None where unknown: then a loss near zero is perfect.
            first: the loss before the first step.

        >>> scale = Yardstick.of(chance=2.0, floor=0.0, first=5.0)
        >>> scale.skill(5.0), scale.skill(2.0), scale.skill(0.5)
        (-1.5, 0.0, 0.75)
        """
        reference = chance if chance is not None else first
        if floor is not None and reference - floor <= 1e-6 * max(abs(reference), abs(floor)):
            reference = first  # a constant is perfect: equal targets
        height = reference - floor if floor is not None else abs(reference) or abs(first)
        return cls(reference, height if height > 0 else 1.0, first)

    def skill(self, loss: float) -> float:
        """Return the skill of a loss."""
        return (self.reference - loss) / self.height

    def rise(self, loss: float) -> float:
        """Return a loss above the floor, in units of the higher of the first loss and chance."""
        floor = self.reference - self.height
        return (loss - floor) / (max(self.first, self.reference) - floor)


def smoothed_end(losses: Sequence[float]) -> float:
    """Return the mean of the last losses."""
    return fmean(losses[-WINDOW:])


def gain_per_step(losses: Sequence[float], scale: Yardstick) -> float:
    """Return the skill gained per step over the last third of a run; 0 where the slope drowns in the scatter."""
    tail = losses[-max(len(losses) // 3, WINDOW) :]
    if len(tail) < 3 or not all(map(math.isfinite, tail)):
        return 0.0
    line = fit_line([float(i) for i in range(len(tail))], [scale.skill(loss) for loss in tail])
    if not line.slope > 0 or (line.stderr is not None and line.slope < SIGNIFICANT * line.stderr):
        return 0.0
    return line.slope


def is_falling(losses: Sequence[float], scale: Yardstick) -> bool:
    """Check that a run is not on a plateau: its slope is clear of its scatter, and leads somewhere."""
    gain = gain_per_step(losses, scale)
    return gain * PATIENCE * len(losses) >= SLOW or (gain > 0 and is_gathering_speed(losses, scale))


def is_gathering_speed(losses: Sequence[float], scale: Yardstick) -> bool:
    """Check that the gain grows from one sixth of a run to the next so fast that it soon leads somewhere.

    A network that leaves a saddle, as every deep one does where it starts with small outputs, gains exponentially: a
    line through its last steps says that it stays long after it has begun to learn. Source: Saxe, McClelland and
    Ganguli 2014, section 1.2.1.
    """
    width = max(len(losses) // 6, 2 * WINDOW)
    if len(losses) < 3 * width:
        return False
    skills = [scale.skill(smoothed_end(losses[: len(losses) - back * width])) for back in (2, 1, 0)]
    before, last = skills[1] - skills[0], skills[2] - skills[1]
    if not (before > 0 and last > GROWTH * before and math.isfinite(last)):
        return False
    growth = last / before
    windows = math.log1p(SLOW * (growth - 1.0) / (last * growth)) / math.log(growth)
    return windows * width <= PATIENCE * len(losses)


def why_ended(losses: Sequence[float], scale: Yardstick, *, max_steps: int, is_last_hope: bool = False) -> Ended | None:
    """Say why a run needs no further step; None to go on.

    Args:
        losses: so far, at least one.
        scale: of the run.
        max_steps: the longest that the run may become.
        is_last_hope: go on as long as the loss falls, even if the pace so far would not do.
    """
    count, last = len(losses), losses[-1]
    if not math.isfinite(last) or scale.rise(last) > LOST:
        return "diverged"
    if count >= RAISED_FOR and all(scale.rise(loss) > RAISED for loss in losses[-RAISED_FOR:]):
        return "diverged"
    if count >= FEWEST and scale.skill(smoothed_end(losses)) >= LEARNED:
        return "learned"
    if count >= max_steps:
        return "steps"
    if count < FIRST_LOOK or (count - FIRST_LOOK) % BETWEEN_LOOKS:
        return None
    gain = gain_per_step(losses, scale)
    if gain > 0 and (count < CLEAR_LOOK or is_gathering_speed(losses, scale)):
        return None
    if gain * PATIENCE * count < SLOW:
        return "plateau"
    if is_last_hope:
        return None
    return "too_slow" if scale.skill(smoothed_end(losses)) + gain * (max_steps - count) < LEARNED else None


def outcome_of(losses: Sequence[float], scale: Yardstick) -> ArmOutcome:
    """Return what a run that has ended shows."""
    if not losses or not math.isfinite(losses[-1]) or scale.rise(smoothed_end(losses)) > RAISED:
        return "diverges" if losses else "undetermined"
    skill = scale.skill(smoothed_end(losses))
    if skill >= LEARNED:
        return "learns"
    if skill >= SLOW:
        return "slow"
    is_short = len(losses) < FIRST_LOOK
    return "undetermined" if is_short or is_falling(losses, scale) else "does_not_learn"
