"""What a curve of losses shows, from curves made by formulas."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from gradinspect.contracts.report.trial import ArmOutcome
from gradinspect.probes.trial.yardstick import Ended, Yardstick, is_falling, outcome_of, why_ended

CHANCE = 2.0


def run(curve: Callable[[int], float], *, max_steps: int = 300, factor: float = 1.0) -> tuple[ArmOutcome, Ended, int]:
    """Follow a curve until it ends; return what it shows, why it ended, and after how many steps."""
    losses: list[float] = []
    scale = Yardstick.of(chance=CHANCE * factor, floor=0.0, first=curve(0) * factor)
    ended: Ended | None = None
    while ended is None:
        losses.append(curve(len(losses)) * factor)
        ended = why_ended(losses, scale, max_steps=max_steps)
    return outcome_of(losses, scale), ended, len(losses)


def noise(step: int) -> float:
    return random.Random(step).uniform(-0.02, 0.02)


CURVES: dict[str, tuple[Callable[[int], float], ArmOutcome, Ended]] = {
    "falls at once": (lambda t: CHANCE * 0.9**t, "learns", "learned"),
    "falls late": (lambda t: CHANCE if t < 55 else CHANCE * 0.97 ** (t - 55), "learns", "learned"),
    "leaves a saddle": (lambda t: CHANCE / (1 + 0.002 * math.exp(t / 25)), "learns", "learned"),
    "first settles, then leaves a saddle": (
        lambda t: CHANCE / (1 + 0.0005 * math.exp(t / 25)) + 0.05 * 0.9**t,
        "learns",
        "learned",
    ),
    "would leave its saddle much later": (lambda t: CHANCE - 1e-5 * math.exp(t / 60), "does_not_learn", "plateau"),
    "stays at chance": (lambda _t: CHANCE, "does_not_learn", "plateau"),
    "stays at chance, noisily": (lambda t: CHANCE + noise(t), "does_not_learn", "plateau"),
    "falls to chance and stays": (lambda t: CHANCE + 5.0 * 0.8**t, "does_not_learn", "plateau"),
    "is far above chance, and falls": (lambda t: CHANCE + 500.0 * 0.99**t, "undetermined", "too_slow"),
    "stays a quarter of the way": (lambda t: 1.5 + 0.5 * 0.8**t, "slow", "plateau"),
    "falls too slowly": (lambda t: CHANCE - 0.002 * t, "undetermined", "too_slow"),
    "is not finite": (lambda t: CHANCE if t < 3 else math.nan, "diverges", "diverged"),
    "explodes": (lambda t: CHANCE * 10.0**t, "diverges", "diverged"),
    "rises above three times the start": (lambda t: CHANCE if t < 5 else 4 * CHANCE, "diverges", "diverged"),
    "jumps and comes back": (lambda t: 4 * CHANCE if 2 < t < 12 else CHANCE * 0.93**t, "learns", "learned"),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e6])
def test_a_curve_shows_the_same_in_every_unit_of_the_loss(name: str, factor: float) -> None:
    curve, outcome, ended = CURVES[name]
    assert run(curve, factor=factor)[:2] == (outcome, ended)


def test_a_healthy_curve_ends_as_soon_as_it_has_learned() -> None:
    assert run(lambda t: CHANCE * 0.9**t)[2] == 10


def test_a_lucky_step_is_not_learning() -> None:
    assert run(lambda t: 0.1 if t == 20 else CHANCE)[0] == "does_not_learn"


def test_a_run_that_is_cut_while_it_falls_is_undetermined() -> None:
    scale = Yardstick.of(chance=CHANCE, floor=0.0, first=5.0)
    losses = [5.0 - 0.05 * step for step in range(30)]
    assert is_falling(losses, scale)
    assert outcome_of(losses, scale) == "undetermined"


def test_without_a_floor_a_loss_near_zero_is_perfect() -> None:
    scale = Yardstick.of(chance=None, floor=None, first=4.0)
    assert scale.skill(1.0) == 0.75
    assert Yardstick.of(chance=3.0, floor=None, first=4.0).skill(1.5) == 0.5


def test_with_equal_targets_the_first_loss_is_the_reference() -> None:
    assert Yardstick.of(chance=0.0, floor=0.0, first=4.0).skill(1.0) == 0.75


def test_a_loss_may_be_negative() -> None:
    scale = Yardstick.of(chance=None, floor=None, first=-2.0)
    assert scale.skill(-4.0) == 1.0
    assert run(lambda t: -2.0 - t)[0] == "learns"
