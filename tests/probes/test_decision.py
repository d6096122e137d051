"""The verdict on a suggestion, and the statistic behind it."""

from __future__ import annotations

import math

import pytest

from gradinspect.probes.verify.curves import WINDOW, final_loss, geometric_mean_curve, mean_log_loss, smoothed
from gradinspect.probes.verify.decision import DIVERGED, compare, decide, has_learned, together, without_candidates
from gradinspect.probes.verify.search import ArmResult

REFERENCES = (2.0, 2.0, 2.0)


def arm(name: str, *ratios: float, final: float = 0.5) -> ArmResult:
    """Make an arm whose A is the log of these ratios, one per seed."""
    return ArmResult(name, 0, 0.1, tuple(map(math.log, ratios)), (final,) * len(ratios), ())


UNIFORM = arm("uniform", 1.0, 1.0, 1.0)
PLATEAU = arm("uniform", 1.0, 1.0, 1.0, final=1.99)


def test_a_candidate_that_is_better_on_average_and_on_every_seed_is_used() -> None:
    decision = decide(UNIFORM, {"newton": arm("newton", 0.85, 0.8, 0.95)}, REFERENCES)
    assert (decision.verdict, decision.arm) == ("use", "newton")


def test_one_seed_that_disagrees_keeps_uniform() -> None:
    decision = decide(UNIFORM, {"newton": arm("newton", 0.5, 0.5, 1.01)}, REFERENCES)
    assert (decision.verdict, decision.arm) == ("keep_uniform", "uniform")


@pytest.mark.parametrize(("ratio", "verdict"), [(0.899, "use"), (0.901, "keep_uniform")])
def test_a_candidate_has_to_gain_a_tenth(ratio: float, verdict: str) -> None:
    assert decide(UNIFORM, {"newton": arm("newton", ratio, ratio, ratio)}, REFERENCES).verdict == verdict


def test_of_several_candidates_the_best_is_used() -> None:
    candidates = {"newton": arm("newton", 0.8, 0.8, 0.8), "equalize": arm("equalize", 0.6, 0.6, 0.6)}
    assert decide(UNIFORM, candidates, REFERENCES).arm == "equalize"


def test_a_candidate_that_learns_while_uniform_does_not_is_used() -> None:
    assert decide(PLATEAU, {"newton": arm("newton", 0.5, 0.6, 0.7)}, REFERENCES).verdict == "use"
    assert decide(None, {"newton": arm("newton", 0.5, 0.6, 0.7)}, REFERENCES).arm == "newton"


def test_a_candidate_that_leaves_a_plateau_too_little_is_inconclusive() -> None:
    decision = decide(PLATEAU, {"newton": arm("newton", 0.95, 0.95, 0.95)}, REFERENCES)
    assert (decision.verdict, decision.arm) == ("inconclusive_plateau", None)


def test_without_an_arm_below_its_reference_loss_none_learns() -> None:
    decision = decide(PLATEAU, {"newton": arm("newton", 0.8, 0.8, 0.8, final=1.95)}, REFERENCES)
    assert (decision.verdict, decision.arm) == ("none_learns", None)
    assert decide(None, {}, REFERENCES).verdict == "none_learns"


@pytest.mark.parametrize(("final", "learned"), [(1.89, True), (1.91, False)])
def test_five_percent_below_the_reference_is_learning(final: float, learned: bool) -> None:
    assert has_learned(arm("newton", 1.0, 1.0, 1.0, final=final), REFERENCES) is learned


def test_ratios_are_of_the_seeds_geometric_means() -> None:
    comparison = compare(arm("newton", 0.5, 2.0), arm("uniform", 1.0, 4.0))
    assert comparison.per_seed == pytest.approx((0.5, 0.5))
    assert comparison.ratio == pytest.approx(0.5)


def test_confirming_seeds_count_like_the_first_and_a_single_loss_rejects_the_candidate() -> None:
    first = compare(arm("newton", 0.5, 0.5), arm("uniform", 1.0, 1.0))
    agreeing = together(first, compare(arm("newton", 0.8, 0.8), arm("uniform", 1.0, 1.0)))
    assert agreeing.per_seed == pytest.approx((0.5, 0.5, 0.8, 0.8))
    assert agreeing.ratio == pytest.approx(math.sqrt(0.5 * 0.8))
    assert agreeing.is_worth_it
    assert not together(first, compare(arm("newton", 1.1, 0.4), arm("uniform", 1.0, 1.0))).is_worth_it
    assert not together(first, DIVERGED).is_worth_it
    assert without_candidates(UNIFORM, REFERENCES).verdict == "keep_uniform"
    assert without_candidates(PLATEAU, REFERENCES).verdict == "inconclusive_plateau"


def test_smoothing_is_a_trailing_mean_that_starts_short() -> None:
    losses = [float(i) for i in range(1, 13)]
    values = smoothed(losses)
    assert values[:3] == [1.0, 1.5, 2.0]
    assert values[-1] == pytest.approx(sum(range(3, 13)) / WINDOW)
    assert final_loss(losses) == values[-1]


def test_the_statistic_is_the_mean_log_of_the_smoothed_loss() -> None:
    assert mean_log_loss([3.0] * 40) == pytest.approx(math.log(3.0))
    losses = [4.0, 2.0]
    assert mean_log_loss(losses) == pytest.approx((math.log(4.0) + math.log(3.0)) / 2)


def test_the_statistic_is_undefined_for_a_negative_loss_and_bounded_at_a_millionth() -> None:
    assert math.isnan(mean_log_loss([1.0, -0.5]))
    assert mean_log_loss([1.0, math.nan]) == math.inf
    assert mean_log_loss([1.0] + [0.0] * 10_000) > math.log(1e-6) - 1e-9


def test_several_seeds_make_one_curve_by_geometric_mean() -> None:
    assert geometric_mean_curve([[1.0, 2.0], [4.0, 8.0]]) == (2.0, 4.0)
    assert geometric_mean_curve([[1.0, 0.0], [4.0, 8.0]]) == (2.0, 0.0)
