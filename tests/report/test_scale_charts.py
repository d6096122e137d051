"""Charts of learning-rate scales: bars in the right direction, losses of the right arms, well-formed in any case."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.report.sections import LrScales, ProbeCurve, ScaleEvidence, ScaleGroup, ScaleRemedy
from gradinspect.report.charts.scale_charts import (
    bars_conclusion,
    best_curves,
    evidence_conclusion,
    paired_evidence,
    scale_bars,
    smoothed,
)

SVG = "{http://www.w3.org/2000/svg}"


def group(layer: str, scale: float | None, **fields: Any) -> ScaleGroup:  # Any: fields of ScaleGroup
    return ScaleGroup(layer=layer, parameters=(f"{layer}.weight",), scale=scale, **fields)


def suggestion(*curves: ProbeCurve, method: str | None = "newton") -> LrScales:
    evidence = ScaleEvidence(
        statement="It covers 20 steps.", steps=20, seeds=3, seeds_are="initialisations", is_synthetic=False,
        samples=128, batch_size=32, curves=curves,
    )  # fmt: skip
    return LrScales(verdict="use", method=method, evidence=evidence)


def curve(arm: str, *losses: float | None, base_lr: float = 0.1) -> ProbeCurve:
    return ProbeCurve(arm=arm, base_lr=base_lr, losses=losses)


def bars(text: str) -> list[tuple[float, float]]:
    rects = ElementTree.fromstring(text).iter(f"{SVG}rect")
    return [(float(rect.get("x") or 0), float(rect.get("width") or 0)) for rect in rects]


def test_a_bar_grows_from_one_by_its_octaves_to_its_side() -> None:
    (x2, w2), (x8, w8), (xh, wh) = bars(scale_bars([group("a", 2.0), group("b", 8.0), group("c", 0.5)]))
    assert x2 == x8 == pytest.approx(xh + wh, abs=0.11)  # all begin at × 1; coordinates have one decimal
    assert w8 == pytest.approx(3 * w2, abs=0.3)
    assert wh == pytest.approx(w2, abs=0.11)


def test_a_whisker_spans_the_variation_over_the_batch() -> None:
    text = scale_bars([group("a", 1.0, cv=1.0), group("b", 4.0)])
    (whisker,) = re.findall(r'd="M([\d.]+) [\d.]+H([\d.]+)" stroke="#7a828c" stroke-width="1.5"', text)
    one, four = bars(text)
    octave = four[1] / 2
    assert float(whisker[1]) - float(whisker[0]) == pytest.approx(2 * octave, abs=0.4)  # × and ÷ (1 + cv)
    assert (float(whisker[0]) + float(whisker[1])) / 2 == pytest.approx(one[0], abs=0.6)


def test_the_conclusion_names_the_slowest_and_the_fastest_layer() -> None:
    said = bars_conclusion([group("stem", 0.25), group("body", 1.0), group("head", 4.0), group("frozen", None)])
    assert said == "Learning-rate scales of 3 groups, from 0.25 for stem to 4 for head."
    assert bars_conclusion([group("a", 1.0), group("b", 1.0)]) == "All 2 groups train at the base learning rate."
    assert "No group" in bars_conclusion([group("a", None)])


def test_many_groups_make_a_picture_of_bounded_height() -> None:
    text = scale_bars([group(str(place), 2.0 ** (place % 5 - 2)) for place in range(400)])
    root = ElementTree.fromstring(text)
    assert float(root.get("height") or 0) < 1_300
    assert len(list(root.iter(f"{SVG}rect"))) == 400
    assert len(list(root.iter(f"{SVG}text"))) < 20  # no room for names


def test_each_arm_is_drawn_at_its_best_rate_and_uniform_comes_first() -> None:
    scales = suggestion(
        curve("newton", 2.0, 1.0), curve("newton", 2.0, 1.5, base_lr=0.3), curve("uniform", 2.0, None, base_lr=1.0),
        curve("uniform", 2.0, 1.8),
    )  # fmt: skip
    assert [(best.arm, best.losses) for best in best_curves(scales)] == [
        ("uniform", (2.0, 1.8)),
        ("newton", (2.0, 1.0)),
    ]
    assert evidence_conclusion(scales) == (
        "Training loss of each arm at its best rate over 20 steps: uniform ends at 1.9; newton ends at 1.5."
    )


def test_every_method_is_named_at_the_end_of_its_line() -> None:
    scales = suggestion(curve("newton", 2.0, 1.0), curve("uniform", 2.0, 1.8), curve("equalize", 2.0, 1.5))
    root = ElementTree.fromstring(paired_evidence(scales))
    words = [text.text for text in root.iter(f"{SVG}text") if text.get("font-weight")]
    assert sorted(words, key=str) == ["equalize", "newton", "uniform"]


def test_a_remedy_that_learned_is_drawn_and_one_that_did_not_is_not() -> None:
    remedies = (
        ScaleRemedy(name="rescale_gains", learned=True, curve=(2.0, 0.2), code="pass"),
        ScaleRemedy(name="adam", learned=False, curve=(2.0, 2.0), code="pass"),
    )
    scales = suggestion(curve("uniform", 2.0, 1.9)).model_copy(update={"remedies": remedies})
    root = ElementTree.fromstring(paired_evidence(scales))
    assert [text.text for text in root.iter(f"{SVG}text") if text.get("font-weight")] == ["uniform", "rescale gains"]
    assert "rescale gains ends at 1.1" in evidence_conclusion(scales)


def test_losses_are_smoothed_over_ten_steps() -> None:
    means = smoothed([float(step) for step in range(1, 21)])
    assert means[0] == 1.0
    assert means[9] == 5.5
    assert means[19] == 15.5
    assert smoothed([None, 2.0]) == [None, 2.0]


def test_without_losses_the_picture_says_so() -> None:
    for scales in (suggestion(), suggestion(curve("uniform", None, None)), LrScales()):
        root = ElementTree.fromstring(paired_evidence(scales))
        assert root.get("aria-label") == "The probe recorded no losses."


numbers = st.one_of(st.none(), st.floats(min_value=0, max_value=1e30, allow_nan=False))


@given(st.lists(st.tuples(numbers, numbers, st.text(max_size=40)), max_size=8))
def test_any_scales_make_a_well_formed_picture(values: list[tuple[float | None, float | None, str]]) -> None:
    text = scale_bars([group(name or "x", scale, cv=cv) for scale, cv, name in values])
    ElementTree.fromstring(text)
    assert not re.search(r'="[^"]*(nan|inf)\b', re.sub(r'aria-label="[^"]*"', "", text))


@given(st.lists(st.tuples(st.sampled_from(["uniform", "newton", "<b>&"]), st.lists(numbers, max_size=12)), max_size=5))
def test_any_losses_make_a_well_formed_picture(curves: list[tuple[str, list[float | None]]]) -> None:
    text = paired_evidence(suggestion(*(curve(arm, *losses) for arm, losses in curves)))
    ElementTree.fromstring(text)
    assert not re.search(r'="[^"]*(nan|inf)\b', re.sub(r'aria-label="[^"]*"', "", text))
