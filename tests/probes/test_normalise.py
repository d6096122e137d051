"""Means and variations of few values."""

from __future__ import annotations

import math

import pytest

from gradinspect.probes.scales.measurement import variation
from gradinspect.probes.scales.normalise import geometric_mean, normalised


def test_the_geometric_mean_of_nothing_is_one() -> None:
    assert geometric_mean([]) == 1.0


def test_groups_without_a_scale_get_exactly_one() -> None:
    assert normalised([None, 2.0, 8.0]) == [1.0, pytest.approx(0.5), pytest.approx(2.0)]


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf], [math.nan, 1.0], [0.0, 0.0]])
def test_the_variation_of_one_value_of_infinity_or_of_zeros_is_unknown(values: list[float]) -> None:
    assert variation(values) is None


def test_the_variation_is_the_standard_deviation_over_the_mean() -> None:
    assert variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)
