"""Charts: well-formed, safe, honest about what cannot be drawn, and small for deep networks."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.report.rows import ActivationStatistics, SignalStatistics
from gradinspect.report.charts.signal_charts import conclusion, signal_profile, sparkline
from gradinspect.testing.measurements import chain, changed

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def points(root: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    path = next(element for element in root.iter(f"{SVG}path") if element.get("class") == name)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d") or "")]


def test_equal_gains_make_a_straight_line_on_the_log_axis() -> None:
    line = points(drawn(signal_profile(chain((0.1,) * 6).layers)), "backward")
    steps = [(x2 - x1, y1 - y2) for (x1, y1), (x2, y2) in pairwise(line)]
    assert len(line) == 7
    assert all(step == pytest.approx(steps[0], abs=0.11) for step in steps)  # coordinates have one decimal
    assert steps[0][0] > 0
    assert steps[0][1] > 0


def test_the_conclusion_labels_the_image() -> None:
    root = drawn(signal_profile(chain((0.1,) * 6).layers, described_by="table"))
    assert root.get("role") == "img"
    assert "the backward signal shrinks 1,000,000-fold" in (root.get("aria-label") or "")
    assert root.get("aria-describedby") == "table"


def test_every_call_of_a_small_network_has_a_mark_with_its_name() -> None:
    titles = [title.text or "" for title in drawn(signal_profile(chain().layers)).iter(f"{SVG}title")]
    assert "0 (Linear): backward 1" in titles
    assert len(titles) == 12


def test_a_name_from_a_model_is_text_not_markup() -> None:
    measured = changed(chain(), "2", name='</title><script>alert(1)</script>&"')
    text = signal_profile(measured.layers)
    assert "<script" not in text
    assert any("<script>" in (title.text or "") for title in drawn(text).iter(f"{SVG}title"))


def test_values_that_a_log_axis_cannot_show_are_ticks_on_a_rail() -> None:
    measured = changed(chain(), "1", cumulative_backward_gain=0.0)
    measured = changed(measured, "3", cumulative_backward_gain=None, nonfinite_count=2)
    text = signal_profile(measured.layers)
    assert text.count('class="fault"') == 2
    assert "zero or NaN" in text
    assert "2 layer calls have no finite, non-zero signal" in conclusion(measured.layers)
    assert 'class="fault"' not in signal_profile(chain().layers)


def test_nothing_measured_draws_an_empty_chart() -> None:
    assert "too little was measured" in (drawn(signal_profile([])).get("aria-label") or "")


def test_thresholds_are_drawn_only_where_the_axis_reaches() -> None:
    text = signal_profile(chain((0.1,) * 5).layers, guides=[(1e-3, "warn"), (1e-30, "fail")])
    assert ">warn<" in text
    assert ">fail<" not in text


def test_1500_layers_take_no_marks_no_dashes_and_little_room() -> None:
    text = signal_profile(chain((0.999,) * 1499).layers)
    assert len(text) < 50_000
    assert "<circle" not in text
    assert "stroke-dasharray" not in text


def test_thinning_keeps_the_extremes() -> None:
    measured = changed(chain((1.0,) * 4000), "1777", cumulative_backward_gain=1e-9)
    heights = [y for _, y in points(drawn(signal_profile(measured.layers)), "backward")]
    assert max(heights) - min(heights) > 100


def test_a_sparkline_says_what_it_shows() -> None:
    root = drawn(sparkline([1e-3, 1e-2, 1e-1, 1.0]))
    assert root.get("aria-label") == "backward signal: shrinks 1,000-fold"
    assert len(points(root, "backward")) == 4
    assert "no signal" in (drawn(sparkline([None, None])).get("aria-label") or "")


SIZES = st.none() | st.floats(0, allow_infinity=False)


@given(st.lists(st.tuples(SIZES, SIZES, st.text(min_size=1, max_size=20)), max_size=30))
def test_whatever_was_measured_the_image_is_well_formed(values: list[tuple[float | None, float | None, str]]) -> None:
    measured = chain((1.0,) * max(len(values) - 1, 0))
    layers = [
        row.model_copy(
            update={
                "name": name, "cumulative_backward_gain": backward, "activation": ActivationStatistics(rms=forward),
                "signal": SignalStatistics(norm=backward),
            }
        )
        for row, (backward, forward, name) in zip(measured.layers, values, strict=False)
    ]  # fmt: skip
    text = signal_profile(layers)
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text, flags=re.S).replace("NaN", "")
    assert "inf" not in re.sub(r"<title>.*?</title>|aria-label=\"[^\"]*\"", "", text, flags=re.S)
    drawn(text)
    drawn(sparkline([backward for backward, _, _ in values]))
