"""Charts of a comparison: stems to the right side, chance as a band, what has no ratio as a tick."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.report.comparison import Difference, LayerComparison, Ratio
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.charts.comparison_charts import (
    overlaid_signals,
    profile_conclusion,
    ratio_profile,
    signals_conclusion,
)
from gradinspect.rules import judge
from gradinspect.rules.compare import compare
from gradinspect.testing.measurements import MODEL, chain

SVG = "{http://www.w3.org/2000/svg}"


def judged(measured: Measurements) -> Report:
    return judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=InspectionSettings())


def layer(name: str, ratio: Ratio, **fields: Any) -> LayerComparison:  # Any: fields of LayerComparison
    return LayerComparison(
        base=name, head=name, call=0, kind="Linear", head_kind="Linear", matched_by="name", signal_rms=ratio, **fields
    )


def ratio(log2: float | None, difference: Difference = "larger", noise: float | None = None) -> Ratio:
    return Ratio(base=1.0, head=2.0, log2_ratio=log2, difference=difference, noise=noise)


def marks(text: str) -> list[tuple[float, str]]:
    circles = ElementTree.fromstring(text).iter(f"{SVG}circle")
    return [(float(circle.get("cy") or 0), circle.get("fill") or "") for circle in circles]


def test_a_stem_has_the_length_and_the_side_of_its_ratio() -> None:
    text = ratio_profile([layer("a", ratio(1.0)), layer("b", ratio(-2.0, "smaller")), layer("c", ratio(0.0, "same"))])
    (up, _), (down, _), (zero, _) = marks(text)
    assert zero - up == pytest.approx((down - zero) / 2, abs=0.11)
    assert up < zero < down  # the axis of SVG points down


def test_what_chance_explains_is_hollow_and_lies_in_the_band() -> None:
    text = ratio_profile([layer("a", ratio(0.3, "within_noise", 0.5)), layer("b", ratio(2.0, "larger", 0.5))])
    (inside, hollow), (outside, filled) = marks(text)
    assert (hollow, filled != "none") == ("none", True)
    (band,) = re.findall(r'class="band" d="([^"]+)"', text)
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", band)]
    assert min(heights) < inside < max(heights)
    assert outside < min(heights)


def test_without_known_chance_there_is_no_band() -> None:
    assert 'class="band"' not in ratio_profile([layer("a", ratio(1.0))])


def test_a_layer_without_a_ratio_is_a_tick() -> None:
    text = ratio_profile([layer("a", Ratio(base=0.0, head=1.0)), layer("b", ratio(1.0))])
    assert text.count('class="fault"') == 1
    assert len(marks(text)) == 1


def test_the_conclusion_counts_what_changed() -> None:
    layers = [layer("a", ratio(1.0)), layer("b", ratio(-2.0, "smaller")), layer("c", ratio(0.1, "within_noise", 0.5))]
    assert profile_conclusion(layers) == (
        "Backward signal of 3 layer calls, head against base: 1 larger, 1 smaller, 1 within what seeds explain."
    )
    assert profile_conclusion([]) == "Backward signal of 0 layer calls, head against base: nothing to compare."


def test_both_signals_are_drawn_and_named() -> None:
    found = compare(judged(chain((0.9,) * 5)), judged(chain((0.1,) * 5)))
    text = overlaid_signals(found.layers)
    root = ElementTree.fromstring(text)
    assert {element.get("class") for element in root.iter(f"{SVG}path")} >= {"base", "head"}
    assert [word.text for word in root.iter(f"{SVG}text") if word.get("font-weight")] == ["base", "head"]
    assert "1e-5 in the head" in signals_conclusion(found.layers)


def test_a_deep_comparison_stays_small() -> None:
    text = ratio_profile([layer(str(place), ratio(0.5)) for place in range(1_500)])
    assert len(text) < 200_000
    assert marks(text) == []


numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(st.tuples(numbers, numbers, st.text(min_size=1, max_size=20)), max_size=6))
def test_any_comparison_makes_a_well_formed_picture(values: list[tuple[float | None, float | None, str]]) -> None:
    layers = [
        layer(name, ratio(log2, "larger", abs(noise) if noise is not None else None),
              cumulative_backward_gain=Ratio(base=log2, head=noise, log2_ratio=log2))
        for log2, noise, name in values
    ]  # fmt: skip
    for text in (ratio_profile(layers), overlaid_signals(layers)):
        ElementTree.fromstring(text)
        assert not re.search(r'="[^"]*(nan|inf)\b', re.sub(r'aria-label="[^"]*"', "", text))
