"""Low precision: flushed shares compared with torch's conversions, and autocast runs with float32 runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.contracts.request.request import Precision
from gradinspect.engine.arrays.distributions import SAMPLE, distribution
from gradinspect.engine.arrays.precision import FP16_LARGEST, FP16_SMALLEST_NORMAL, precision_section
from gradinspect.inspection.training_trace import training_trace_section
from tests.support.networks.section_inputs import mlp, normal, scripted, section_input

FORMATS = {
    "fp16_flush_fraction": torch.float16,
    "bf16_flush_fraction": torch.bfloat16,
    "fp8_e4m3_flush_fraction": torch.float8_e4m3fn,
    "fp8_e5m2_flush_fraction": torch.float8_e5m2,
}


def section_of(values: torch.Tensor, **settings: Any) -> PrecisionSection:
    spread = distribution(values)
    return precision_section([(spread, values.numel(), float(values.abs().max()))], Precision(**settings), "float32")


@pytest.mark.parametrize("field", FORMATS)
def test_a_format_flushes_exactly_the_values_that_it_rounds_to_zero(field: str) -> None:
    exponents = torch.linspace(-148, 3, SAMPLE, dtype=torch.float64)
    values = torch.exp2(exponents).float()  # subnormals of float32 included
    scaled = values.to(FORMATS[field]).float()
    expected = float((scaled == 0).sum()) / float((values != 0).sum())
    assert getattr(section_of(values), field) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


@pytest.mark.parametrize("field", ["fp16_flush_fraction", "fp8_e4m3_flush_fraction", "fp8_e5m2_flush_fraction"])
def test_half_of_the_smallest_subnormal_is_flushed_and_the_next_larger_value_is_not(field: str) -> None:
    limit = {"fp16": 2.0**-25, "fp8_e4m3": 2.0**-10, "fp8_e5m2": 2.0**-17}[field.removesuffix("_flush_fraction")]
    edge = np.float32(limit)
    values = torch.tensor([edge, np.nextafter(edge, np.float32(1))])
    assert getattr(section_of(values), field) == 0.5


def test_normal_gradients_are_flushed_as_often_as_the_error_function_says() -> None:
    s = 1e-7
    values = (s * normal(SAMPLE)).float()
    truth = math.erf(2.0**-25 / (s * math.sqrt(2)))
    # A share of 0.234 over 16,384 draws has a standard deviation of 0.0033; 5 of them.
    assert section_of(values).fp16_flush_fraction == pytest.approx(truth, abs=0.0165)


def test_a_larger_loss_scale_flushes_fewer_gradients() -> None:
    values = torch.tensor([2.0**-26, 2.0**-20])
    assert section_of(values).fp16_flush_fraction == 0.5
    assert section_of(values, loss_scale=2.0**10).fp16_flush_fraction == 0.0


def test_the_window_of_loss_scales_keeps_the_smallest_normal_and_the_largest_finite() -> None:
    values = torch.linspace(1e-3, 1.0, 1000)
    window = section_of(values).loss_scale_window
    assert window is not None
    assert window[0] == pytest.approx(FP16_SMALLEST_NORMAL / float(values[9]), rel=0.01)
    assert window[1] == pytest.approx(FP16_LARGEST, rel=1e-6)


def gradients(model: nn.Module, **precision: Any) -> dict[str, float]:
    s = section_input(model, normal(8, 4).float(), normal(8, 3, seed=1).float(), precision=Precision(**precision))
    return {entry.name: reading.moments.norm for entry, reading in s.reading.gradients.items()}


@pytest.mark.parametrize(("compute", "epsilon"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_an_autocast_run_rounds_in_half_precision_and_keeps_float32_weights(compute: str, epsilon: float) -> None:
    model = mlp(4, 8, 3).float()
    plain = gradients(model)
    half = gradients(model, compute=compute)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for name, value in plain.items():
        error = abs(half[name] - value) / value
        assert error < 20 * epsilon, name  # about ten roundings in this format
    assert max(abs(half[name] - value) / value for name, value in plain.items()) > epsilon / 100


def test_a_loss_scale_prevents_flushing_and_is_divided_out_of_the_gradients() -> None:
    def faint(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return (output - target).square().mean() * 1e-8

    def read(**precision: Any) -> tuple[float, float]:
        s = section_input(
            mlp(4, 8, 3).float(), normal(8, 4).float(), normal(8, 3, seed=1).float(), custom_loss=faint,
            precision=Precision(**precision),
        )  # fmt: skip
        first = s.parameters.entries[0]
        return s.reading.gradients[first].moments.norm, s.reading.signals[0]

    gradient, signal = read()
    lost, _ = read(compute="float16")
    saved, saved_signal = read(compute="float16", loss_scale=2.0**24)
    assert lost < 0.5 * gradient
    assert saved == pytest.approx(gradient, rel=0.01)
    assert saved_signal == pytest.approx(signal, rel=0.01)


def test_a_loss_scale_changes_nothing_in_float32() -> None:
    model = mlp(4, 8, 3).float()
    assert gradients(model, loss_scale=2.0**30) == gradients(model)


def test_sections_run_in_the_precision_of_the_first_pass() -> None:
    s = section_input(
        scripted(mlp(4, 8, 3).float()), normal(8, 4).float(), normal(8, 3, seed=1).float(),
        precision=Precision(compute="bfloat16"),
    )  # fmt: skip
    trace = training_trace_section(s).section.trace  # type: ignore[attr-defined]  # a TimeDecay
    assert trace[0].loss == s.reading.loss


def test_a_report_names_the_precision_of_the_computation() -> None:
    spec = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 3}]}
    report = inspect(spec, precision={"compute": "bfloat16", "intended": "bfloat16"})
    assert report.precision is not None
    assert report.precision.compute == "bfloat16"
    assert report.environment.dtype == "float32"
    assert all(check.status != "failed" for check in report.self_checks)
