"""Comparison of two reports: rules, findings, layers, and the part that chance explains."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.document import from_json
from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.comparison import Change, Comparison
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.report.sections import LayerSpread, SeedSpread
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import DEFAULT_POLICY, RULES, compare, judge
from gradinspect.rules.chance import half_width, t_quantile
from gradinspect.rules.matching import match_layers
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter, layer, rescaled

SGD = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1))


def judged(measured: Measurements, settings: InspectionSettings = SGD, policy: Policy = DEFAULT_POLICY) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection=None, settings=settings)


def compared(base: Measurements, head: Measurements) -> Comparison:
    return compare(judged(base), judged(head))


def change_of(comparison: Comparison, rule: str) -> tuple[Change, str]:
    found = next(entry for entry in comparison.rules if entry.rule == rule)
    return found.change, found.reason


def test_a_report_compared_with_itself_shows_no_change() -> None:
    found = compared(chain((0.2,) * 5), chain((0.2,) * 5))
    assert found.change == "no_clear_change"
    assert (found.findings.new, found.findings.fixed) == ((), ())
    assert [entry.rule for entry in found.findings.still] == ["vanishing_signal"]
    assert {ratio.difference for row in found.layers for ratio in (row.signal_rms, row.grad_norm)} == {"same"}
    assert {row.signal_rms.log2_ratio for row in found.layers} == {0.0}


def test_every_rule_is_compared_in_the_catalogues_order() -> None:
    assert [entry.rule for entry in compared(chain(), chain()).rules] == [rule.id for rule in RULES]


def test_a_signal_that_starts_to_vanish_is_worse_and_new() -> None:
    found = compared(chain(), chain((0.2,) * 5))
    assert found.change == "worse"
    assert found.verdict_worse
    assert change_of(found, "vanishing_signal") == ("worse", "from pass to warn")
    assert [finding.rule for finding in found.findings.new] == ["vanishing_signal"]
    assert "shrinks 3,100-fold" in found.message


def test_the_other_way_round_it_is_better_and_fixed() -> None:
    found = compared(chain((0.2,) * 5), chain())
    assert (found.change, found.verdict_worse) == ("better", False)
    assert [finding.rule for finding in found.findings.fixed] == ["vanishing_signal"]
    assert found.message.startswith("Better: The backward signal vanishes (from warn to pass)")


def test_one_rule_that_got_worse_outweighs_all_that_got_better() -> None:
    found = compared(chain((0.2,) * 5), changed(chain(), "2", dead_unit_fraction=0.3))
    assert (found.change, found.verdict_worse) == ("worse", False)
    assert "Dead units" in found.message


def test_information_is_listed_and_never_counts() -> None:
    found = compared(chain(), changed_parameter(chain(), "0.weight", status="frozen"))
    assert [finding.rule for finding in found.findings.new] == ["frozen_parameter"]
    assert found.change == "no_clear_change"


@pytest.mark.parametrize(("before", "after", "change"), [(0.2, 0.15, "worse"), (0.2, 0.19, "no_clear_change"),
                                                         (0.15, 0.2, "better")])  # fmt: skip
def test_a_finding_as_severe_as_before_changes_with_its_value(before: float, after: float, change: str) -> None:
    found = compared(chain((before,) * 5), chain((after,) * 5))
    assert change_of(found, "vanishing_signal")[0] == change
    assert found.change == change


@pytest.mark.parametrize(("factor", "change"), [(2.01, "worse"), (1.99, "no_clear_change"),
                                                (1 / 1.99, "no_clear_change"), (1 / 2.01, "better")])  # fmt: skip
def test_a_finding_that_stays_changes_with_a_factor_of_two_in_its_value(factor: float, change: str) -> None:
    found = compared(chain((0.2,) * 5), chain((0.2,) * 4 + (0.2 / factor,)))
    assert change_of(found, "vanishing_signal")[0] == change


def test_values_of_rules_that_passed_are_known_too() -> None:
    entry = next(
        entry for entry in compared(chain((0.5,) * 5), chain((0.9,) * 5)).rules if entry.rule == "vanishing_signal"
    )
    assert (entry.base, entry.head) == ("pass", "pass")
    assert (entry.base_value, entry.head_value) == pytest.approx((0.5**5, 0.9**5))


def test_a_head_that_cannot_be_judged_makes_the_comparison_undetermined() -> None:
    found = compared(chain(), chain(()))
    assert (found.change, found.verdict_worse) == ("undetermined", False)


def test_rules_that_neither_side_measured_are_undetermined_and_change_nothing() -> None:
    found = compared(chain(), chain())
    assert change_of(found, "noise_dominated") == (
        "undetermined",
        "it was not judged: the gradient noise was not measured",
    )
    assert found.change == "no_clear_change"


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_multiplying_the_loss_is_no_change(factor: float) -> None:
    found = compared(chain((0.2,) * 5), rescaled(chain((0.2,) * 5), factor))
    assert found.change == "no_clear_change"
    assert found.layers[0].signal_rms.log2_ratio == pytest.approx(math.log2(factor))
    assert found.layers[0].cumulative_backward_gain.difference == "same"


def test_a_remaining_finding_lists_the_layers_added_and_removed() -> None:
    base, head = chain((0.1, 0.1, 1.0, 0.05)), chain((0.1, 0.05, 0.1, 0.9))
    (still,) = [entry for entry in compared(base, head).findings.still if entry.rule == "vanishing_signal"]
    assert (still.base.layers, still.head.layers) == (("0",), ("0",))
    base, head = chain((0.1, 0.01, 1.0, 0.5)), chain((1.0, 1.0, 0.0005, 1.0))
    (still,) = [entry for entry in compared(base, head).findings.still if entry.rule == "vanishing_signal"]
    assert set(still.head.layers) - set(still.base.layers) == set(still.added_layers) == {"1", "2"}
    assert still.removed_layers == ()


def test_both_sides_can_be_judged_by_one_policy_first() -> None:
    strict = Policy(name="strict", version=3, rules={"vanishing_signal": RulePolicy(warn=0.9, fail=0.5)})
    found = compare(judged(chain()), judged(chain((0.8,) * 5)), policy=strict)
    assert found.change == "worse"
    assert (found.base.policy, found.head.policy) == (found.head.policy, found.base.policy)
    assert found.head.policy is not None
    assert (found.head.policy.name, found.head.policy.version) == ("strict", 3)


def test_differences_that_make_the_sides_hard_to_compare_are_noted() -> None:
    other = chain()
    other = other.model_copy(update={"environment": other.environment.model_copy(update={"device": "cuda (X)"})})
    found = compare(judged(chain()), judged(other, policy=Policy(name="strict")))
    assert found.notes == (
        "the two were measured with different devices: cpu and cuda (X)",
        "the two were judged by different policies: default 1 and strict 1",
    )


def test_a_comparison_is_a_valid_document() -> None:
    found = compared(chain((0.2,) * 5), chain((3.0,) * 7))
    assert from_json(Comparison, found.model_dump_json()) == found


# ---- layers --------------------------------------------------------------------------------------------------------


def named(*names: str, kind: str = "Linear") -> list[LayerMeasurement]:
    return [layer(depth, name=name, kind=kind) for depth, name in enumerate(names)]


def test_layers_are_matched_by_name_at_any_position() -> None:
    found = match_layers(named("a", "b", "c"), named("c", "a"))
    assert [(pair.base, pair.head, pair.by) for pair in found.pairs] == [(2, 0, "name"), (0, 1, "name")]
    assert (found.only_base, found.only_head) == ((1,), ())


def test_calls_of_one_layer_are_matched_call_by_call() -> None:
    base = [layer(step, name="rnn", call=step) for step in range(3)]
    head = [layer(step, name="rnn", call=step) for step in range(5)]
    found = match_layers(base, head)
    assert [pair.base for pair in found.pairs] == [0, 1, 2]
    assert found.only_head == (3, 4)


def test_renamed_layers_are_matched_by_their_order_within_a_kind() -> None:
    base = [*named("a", "b"), layer(2, name="norm", kind="LayerNorm")]
    head = [*named("x"), layer(1, name="n", kind="LayerNorm"), *named("y")]
    found = match_layers(base, head)
    assert [(pair.base, pair.head, pair.by) for pair in found.pairs] == [
        (0, 0, "position"), (2, 1, "position"), (1, 2, "position"),
    ]  # fmt: skip


def test_a_layer_put_into_a_sequential_does_not_shift_the_others() -> None:
    base = named("0", "2", "4")
    head = [layer(0, name="0"), layer(1, name="1", kind="BatchNorm1d"), layer(2, name="3"),
            layer(3, name="4", kind="BatchNorm1d"), layer(4, name="6")]  # fmt: skip
    found = match_layers(base, head)
    assert [(pair.base, pair.head) for pair in found.pairs] == [(0, 0), (1, 2), (2, 4)]
    assert found.only_head == (1, 3)


def test_a_named_layer_of_another_kind_is_still_that_layer() -> None:
    base, head = named("norm", kind="BatchNorm1d"), named("norm", kind="LayerNorm")
    assert [pair.by for pair in match_layers(base, head).pairs] == ["name"]


kinds = st.sampled_from(["Linear", "Conv2d", "LayerNorm"])
names = st.sampled_from(["a", "b", "0", "block.1", "block.2"])


@given(
    base=st.lists(st.tuples(names, kinds), unique_by=lambda entry: entry[0], max_size=5),
    head=st.lists(st.tuples(names, kinds), unique_by=lambda entry: entry[0], max_size=5),
)
def test_every_layer_is_matched_once_or_listed_as_unmatched(
    base: list[tuple[str, str]], head: list[tuple[str, str]]
) -> None:
    ours = [layer(depth, name=name, kind=kind) for depth, (name, kind) in enumerate(base)]
    theirs = [layer(depth, name=name, kind=kind) for depth, (name, kind) in enumerate(head)]
    found = match_layers(ours, theirs)
    assert sorted([pair.base for pair in found.pairs] + [*found.only_base]) == list(range(len(ours)))
    assert sorted([pair.head for pair in found.pairs] + [*found.only_head]) == list(range(len(theirs)))
    left = {ours[place].kind for place in found.only_base} & {theirs[place].kind for place in found.only_head}
    assert left == set(), "two layers of one kind are not left over on both sides"


# ---- chance --------------------------------------------------------------------------------------------------------


def with_spread(measured: Measurements, seeds: int, std: float) -> Measurements:
    row = LayerSpread(signal_rms=std, cumulative_backward_gain=std, backward_gain=std, forward_gain=std, grad_norm=std)
    return measured.model_copy(update={"spread": SeedSpread(seeds=seeds, layers=(row,) * len(measured.layers))})


def test_without_seeds_on_either_side_the_noise_is_unknown() -> None:
    found = compared(chain(), chain((0.9,) * 5))
    assert found.noise == "unknown"
    assert {row.signal_rms.noise for row in found.layers} == {None}
    assert found.layers[0].signal_rms.difference == "smaller"


def test_a_difference_that_seeds_explain_is_within_noise() -> None:
    base, head = with_spread(chain(), 3, 0.5), with_spread(chain((0.9,) * 5), 3, 0.5)
    found = compared(base, head)
    assert found.noise == "seeds"
    # t with 4 degrees of freedom is 2.7764; the standard error of the difference of two means of 3 is 0.5·√(2/3).
    assert found.layers[0].backward_gain.noise == pytest.approx(2.776445 * 0.5 * math.sqrt(2 / 3), rel=1e-6)
    assert {row.backward_gain.difference for row in found.layers[:-1]} == {"within_noise"}


def test_a_difference_beyond_the_seeds_is_named() -> None:
    base, head = with_spread(chain(), 8, 0.05), with_spread(chain((0.5,) * 5), 8, 0.05)
    assert {row.backward_gain.difference for row in compared(base, head).layers[:-1]} == {"smaller"}


def test_one_side_with_seeds_is_enough_to_know_the_noise() -> None:
    found = compared(with_spread(chain(), 4, 0.1), chain((0.9,) * 5))
    # t with 3 degrees of freedom is 3.1824; a mean of 4 against a single draw.
    assert found.layers[0].backward_gain.noise == pytest.approx(3.182446 * 0.1 * math.sqrt(1 + 1 / 4), rel=1e-6)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.70620474), (2, 4.30265273), (3, 3.18244631), (4, 2.77644511),
                                            (10, 2.22813885), (31, 2.03951345), (62, 1.99897152)])  # fmt: skip
def test_students_t_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, rel=1e-8)


def test_the_band_of_chance_covers_nineteen_of_twenty_differences() -> None:
    # 4,000 differences of two means of 3 draws each; the count of misses is binomial with p = 0.05, so it lies within
    # 200 ± 4·√(4000·0.05·0.95) = 200 ± 55 but for one run in 15,000.

    random, misses = Random(7), 0
    for _ in range(4000):
        sides = [[random.gauss(0, 1) for _ in range(3)] for _ in range(2)]
        width = half_width(stdev(sides[0]), 3, stdev(sides[1]), 3)
        assert width is not None
        misses += abs(fmean(sides[0]) - fmean(sides[1])) > width
    assert 145 <= misses <= 255


def test_no_seeds_on_either_side_give_no_band() -> None:
    assert half_width(None, 1, None, 1) is None
    assert half_width(0.1, 1, None, 3) is None
