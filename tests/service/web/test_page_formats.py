"""Times, sizes and messages on pages."""

from datetime import UTC, datetime, timedelta

import pytest

from gradinspect.report.html.environment import lines, marked
from gradinspect.report.words.figures import amount, duration, size
from service.web.formats import ago, decades

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-3), "just now"),
        (timedelta(seconds=4), "just now"),
        (timedelta(seconds=59), "59 seconds ago"),
        (timedelta(seconds=61), "1 minute ago"),
        (timedelta(hours=5), "5 hours ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=45), "1 month ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_an_age_is_written_in_its_largest_unit(age: timedelta, words: str) -> None:
    assert ago(NOW - age, NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.02, "20 ms"), (0.42, "0.42 s"), (12.4, "12 s"), (200, "3 min 20 s"), (3600, "1 h 0 min")],
)
def test_a_duration_has_about_two_digits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (7.1e6, "7.1 M"), (1.3e9, "1.3 B")]
)
def test_large_counts_are_shortened(count: int, words: str) -> None:
    assert amount(count) == words


def test_bytes_are_in_binary_units() -> None:
    assert [size(512), size(2048), size(3 * 2**30)] == ["512 B", "2 KiB", "3 GiB"]


def test_decades_have_a_sign() -> None:
    assert [decades(-15.04), decades(4.8), decades(-0.01)] == ["−15.0", "+4.8", "0.0"]


def test_names_between_backticks_are_code_and_everything_is_escaped() -> None:
    assert marked("grows at `a<b>` & on") == "grows at <code>a&lt;b&gt;</code> &amp; on"
    assert marked("a name with a `tick` in ` it") == "a name with a `tick` in ` it"


def test_source_keeps_its_line_breaks_and_is_escaped() -> None:
    assert lines("if a < b:\n    c()") == "if a &lt; b:\n    c()"
    assert "\x1b" not in lines("a\x1b[31m")
