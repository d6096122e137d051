"""Transformations with a known effect on a report: rescaled losses, moved factors, permuted samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.report import Report
from tests.support.networks.inspected import (
    ROUNDING,
    assert_same,
    inspect,
    layer,
    linear_chain,
    parameter,
    random,
    squared_error,
)

SCALED_WITH_THE_LOSS = (
    "signal", "grad_norm", "grad_rms", "grad_mean", "grad_std", "grad_abs_max", "grad_abs_mean", "grad_quantiles",
    "grad_to_weight",
)  # fmt: skip


def network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 20), nn.Tanh(),
        nn.LayerNorm(20), nn.Linear(20, 5),
    ).double()  # fmt: skip


IMAGES, CLASSES = random(16, 3, 8, 8, seed=5), torch.arange(16) % 5


def scaled_report(factor: float) -> Report:
    def loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return factor * nn.functional.cross_entropy(output, target)

    return inspect(network(), IMAGES, CLASSES, loss=loss)


def scaled(value: Any, factor: float) -> Any:
    """Multiply a dumped field by a factor at any depth."""
    if isinstance(value, dict):
        return {key: scaled(inner, factor) for key, inner in value.items()}
    return None if value is None else value * factor


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_scaled_loss_scales_gradients_and_signals_and_nothing_else(factor: float) -> None:
    one, other = scaled_report(1.0), scaled_report(factor)
    for rows, changed in ((one.layers, other.layers), (one.parameters, other.parameters)):
        for row, counterpart in zip(rows, changed, strict=True):
            for field in type(row).model_fields:
                before, after = row.model_dump()[field], counterpart.model_dump()[field]
                if field in ("log2_histogram", "fp16_flush_fraction", "bf16_flush_fraction"):
                    continue  # shifted by the factor's exponent: the next two tests
                if field in SCALED_WITH_THE_LOSS:
                    before = scaled(before, factor)
                assert_close(flat(before), flat(after), field, absolute=1e-15 * factor)
    assert one.depth_decay is not None
    assert other.depth_decay is not None
    assert_same(one.depth_decay, other.depth_decay, relative=1e-9, absolute=1e-12)
    assert one.verdict == other.verdict
    assert judged(one) == judged(other)


def judged(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """List the findings that decide the verdict."""
    return [(finding.rule, finding.layers) for finding in report.findings if finding.severity != "info"]


def assert_close(before: list[Any], after: list[Any], field: str, *, absolute: float) -> None:
    assert [part for part in before if not isinstance(part, float)] == [p for p in after if not isinstance(p, float)]
    left, right = ([part for part in parts if isinstance(part, float)] for parts in (before, after))
    assert right == pytest.approx(left, rel=1e-9, abs=absolute), (
        field
    )  # means of the head's gradient are 0 up to rounding


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for inner in value.values() for part in flat(inner)]
    if isinstance(value, list | tuple):
        return [part for inner in value for part in flat(inner)]
    return [value]


def test_a_loss_scaled_by_a_power_of_two_shifts_the_histogram_by_its_exponent() -> None:
    one, other = scaled_report(1.0), scaled_report(2.0**-20)
    for row, counterpart in zip(one.parameters, other.parameters, strict=True):
        before, after = row.log2_histogram, counterpart.log2_histogram
        assert before is not None
        assert after is not None
        assert (after.lowest, after.counts, after.zeros) == (before.lowest - 20, before.counts, before.zeros)


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_moving_a_factor_from_one_relu_layer_to_the_next_keeps_the_loss_and_rescales_the_gradients(
    factor: float,
) -> None:
    weights = [random(8, 8, seed=seed) for seed in range(4)]
    moved = [w.clone() for w in weights]
    moved[1] *= factor
    moved[2] /= factor
    x, t = random(12, 8, seed=8), random(12, 8, seed=9)
    one = inspect(linear_chain(*weights, activation=nn.ReLU), x, t, loss=squared_error)
    other = inspect(linear_chain(*moved, activation=nn.ReLU), x, t, loss=squared_error)
    assert other.summary.loss == pytest.approx(one.summary.loss, rel=ROUNDING)
    for name, ratio in (("0", 1.0), ("2", 1 / factor), ("4", factor), ("6", 1.0)):
        before, after = parameter(one, f"{name}.weight").grad_norm, parameter(other, f"{name}.weight").grad_norm
        assert before is not None
        assert after == pytest.approx(before * ratio, rel=ROUNDING)
    gains = [(layer(one, name).backward_gain, layer(other, name).backward_gain) for name in ("0", "2", "4")]
    for (before, after), ratio in zip(gains, (factor, 1 / factor, 1.0), strict=True):
        assert before is not None
        assert after == pytest.approx(before * ratio, rel=ROUNDING)


def test_the_order_of_the_samples_changes_nothing() -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    one = inspect(network(), IMAGES, CLASSES)
    other = inspect(network(), IMAGES[order], CLASSES[order])
    # Sums over samples run in another order: rounding, amplified by at most 1e3 through the norms' divisions.
    assert_same(one.layers, other.layers, relative=1e-9, absolute=1e-13)
    assert_same(one.parameters, other.parameters, relative=1e-9, absolute=1e-13, but=("log2_histogram",))


def test_a_second_inspection_gives_bit_equal_numbers() -> None:
    one, other = inspect(network(), IMAGES, CLASSES), inspect(network(), IMAGES, CLASSES)
    assert one.layers == other.layers
    assert one.parameters == other.parameters
