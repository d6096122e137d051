"""Charts made of characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.report.text.text_charts import FAULT, bar, centred_bar, sparkline
from gradinspect.report.words.figures import duration, printable, shortened


def test_a_falling_signal_falls_and_a_flat_one_stays() -> None:
    assert sparkline([10.0**-n for n in range(8)], most=20) == "█▇▆▅▄▃▂▁"
    assert sparkline([1.0, 1.01, 0.99], most=20) == "███"


def test_zeros_and_gaps_are_marked_and_nothing_is_drawn_of_nothing() -> None:
    assert sparkline([1.0, 0.0, None, 1.0], most=20) == f"█{FAULT}{FAULT}█"
    assert sparkline([], most=20) == ""
    assert sparkline([None, 0.0], most=20) == ""


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e300)), max_size=300), st.integers(1, 80))
def test_a_line_is_never_longer_than_asked(values: list[float | None], most: int) -> None:
    assert len(sparkline(values, most=most)) <= min(len(values), most)


@given(st.floats(0, 1), st.integers(1, 20))
def test_a_bar_never_leaves_its_cells(share: float, cells: int) -> None:
    assert len(bar(share, cells)) <= cells
    assert bar(1.0, cells) == "█" * cells
    assert bar(0.0, cells) == ""


def test_bars_from_the_middle_go_both_ways() -> None:
    assert centred_bar(2.0, 4.0, 4) == "    │▬▬"
    assert centred_bar(-4.0, 4.0, 4) == "▬▬▬▬│"
    assert centred_bar(0.0, 0.0, 4) == "    │"


@given(st.text())
def test_printable_text_is_printable_and_as_long(text: str) -> None:
    assert printable(text).replace("\N{REPLACEMENT CHARACTER}", "").isprintable() or any(
        not c.isprintable() for c in text
    )
    assert len(printable(text)) == len(text)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in printable(text))


@given(st.text(min_size=1, max_size=80), st.integers(4, 40))
def test_a_name_is_cut_in_its_middle(name: str, most: int) -> None:
    short = shortened(name, most)
    assert len(short) <= most
    assert short == name or (short[0] == name[0] and short[-1] == name[-1] and "…" in short)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0042, "4 ms"), (0.5, "0.5 s"), (42, "42 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")]
)
def test_durations_have_two_digits_or_so(seconds: float, words: str) -> None:
    assert duration(seconds) == words
