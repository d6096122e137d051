"""Synthetic measurements: a chain of layers with chosen gains, as the engine would report them.

For tests of code that reads measurements (rules, pages, clients). Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any  # fields of rows, and sections of Measurements

from gradinspect.contracts.report.report import Environment, MeasuredSummary, Measurements, ModelReference
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    ParameterMeasurement,
    SignalStatistics,
)
from gradinspect.contracts.report.sections import DepthDecay

MODEL = ModelReference(kind="module", name="Chain")
_OF_GRADIENTS = (
    "grad_norm", "grad_rms", "grad_mean", "grad_std", "grad_abs_max", "grad_abs_mean", "grad_to_weight",
)  # fmt: skip


def layer(depth: int, **fields: Any) -> LayerMeasurement:
    """Return a call of a linear layer of 64 units, named after its depth, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "name": str(depth), "call": 0, "kind": "Linear", "parameters": (f"{depth}.weight", f"{depth}.bias"),
        "output_shape": (128, 64), "activation": ActivationStatistics(mean=0.4, std=0.6, rms=0.7, abs_max=3.0),
    }  # fmt: skip
    return LayerMeasurement(depth=depth, **(defaults | fields))


def parameter(name: str, **fields: Any) -> ParameterMeasurement:
    """Return a healthy weight of 64 × 64, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "layer": name.rpartition(".")[0], "shape": (64, 64), "numel": 4096, "dtype": "float32", "status": "trained",
        "grad_norm": 0.5, "grad_rms": 0.5 / 64, "grad_mean": 0.0, "grad_std": 0.5 / 64, "grad_abs_max": 0.05,
        "grad_abs_mean": 0.006, "zero_fraction": 0.0, "weight_norm": 10.0, "weight_rms": 10.0 / 64,
        "grad_to_weight": 0.05,
    }  # fmt: skip
    return ParameterMeasurement(name=name, **(defaults | fields))


def bias(name: str, **fields: Any) -> ParameterMeasurement:
    """Return a bias initialised at zero, with `fields` replaced."""
    defaults: dict[str, Any] = {
        "shape": (64,), "numel": 64, "grad_norm": 0.02, "weight_norm": 0.0, "weight_rms": 0.0, "grad_to_weight": None,
    }  # fmt: skip
    return parameter(name, **(defaults | fields))


def chain(
    gains: Sequence[float] = (1.0,) * 5,
    *,
    nonlinearity: str = "relu",
    slope: float = math.sqrt(0.5),
    **sections: Any,
) -> Measurements:
    """Return a chain of layers with backward gains `gains`, input first, and a last layer whose signal has norm 1.

    Args:
        gains: ‖δ_l‖ / ‖δ_{l+1}‖ of each layer but the last.
        nonlinearity: the activation after each of them.
        slope: the activation's factor of each gain.
        sections: parts of the measurements to set or replace.

    >>> [round(row.cumulative_backward_gain, 3) for row in chain([0.5, 0.5]).layers]
    [0.25, 0.5, 1.0]
    """
    signals = [1.0]
    for gain in reversed(gains):
        signals.insert(0, signals[0] * gain)
    layers = [
        layer(
            depth,
            nonlinearity=nonlinearity,
            preactivation=ActivationStatistics(mean=0.0, std=1.0, rms=1.0, abs_max=4.0),
            signal=SignalStatistics(norm=signals[depth], rms=signals[depth] / 64),
            backward_gain=gain,
            activation_gain=slope,
            weight_gain=gain / slope,
            cumulative_backward_gain=signals[depth],
            dead_unit_fraction=0.0,
            sample_similarity=0.5,
        )
        for depth, gain in enumerate(gains)
    ]
    last = len(gains)
    layers.append(
        layer(last, signal=SignalStatistics(norm=1.0, rms=1 / 64), cumulative_backward_gain=1.0, dead_unit_fraction=0.0)
    )
    parameters = [row for depth in range(last + 1) for row in (parameter(f"{depth}.weight"), bias(f"{depth}.bias"))]
    return measurements(layers, parameters, **sections)


def measurements(
    layers: Sequence[LayerMeasurement],
    parameters: Sequence[ParameterMeasurement],
    *,
    loss: float | None = 2.3,
    expected: float | None = math.log(10),
    **sections: Any,
) -> Measurements:
    """Return measurements of these layers and parameters."""
    signals = [row.cumulative_backward_gain for row in layers if row.cumulative_backward_gain is not None]
    fields: dict[str, Any] = {
        "environment": Environment(
            gradinspect_version="0", torch_version="2.13.0", device="cpu", dtype="float32", threads=1, seed=0
        ),
        "summary": MeasuredSummary(
            loss=loss, expected_initial_loss=expected, parameters=sum(row.numel for row in parameters),
            layers=len(layers), total_grad_norm=1.0,
        ),
        "depth_decay": DepthDecay(cumulative_gain=signals[0] if signals else None, layers_used=len(signals)),
        "layers": tuple(layers), "parameters": tuple(parameters),
    }  # fmt: skip
    return Measurements(**(fields | sections))


def rescaled(measured: Measurements, factor: float) -> Measurements:
    """Return the measurements of the same network with its loss multiplied: gradients and signals scale with it."""
    layers = tuple(
        row.model_copy(update={"signal": _scaled(row.signal, factor)}) if row.signal is not None else row
        for row in measured.layers
    )
    parameters = tuple(
        row.model_copy(
            update={name: value * factor for name in _OF_GRADIENTS if (value := getattr(row, name)) is not None}
        )
        for row in measured.parameters
    )
    summary = measured.summary
    scaled = {
        name: value * factor
        for name in ("loss", "expected_initial_loss", "total_grad_norm")
        if (value := getattr(summary, name)) is not None
    }
    return measured.model_copy(
        update={"layers": layers, "parameters": parameters, "summary": summary.model_copy(update=scaled)}
    )


def changed(measured: Measurements, layer_name: str, **fields: Any) -> Measurements:
    """Return the measurements with one layer's fields replaced."""
    layers = tuple(row.model_copy(update=fields) if row.name == layer_name else row for row in measured.layers)
    return measured.model_copy(update={"layers": layers})


def changed_parameter(
    measured: Measurements,
    name: str,
    **fields: Any,
) -> Measurements:
    """Return the measurements with one parameter's fields replaced."""
    parameters = tuple(row.model_copy(update=fields) if row.name == name else row for row in measured.parameters)
    return measured.model_copy(update={"parameters": parameters})


def _scaled(signal: SignalStatistics, factor: float) -> SignalStatistics:
    return SignalStatistics(
        norm=signal.norm * factor if signal.norm is not None else None,
        rms=signal.rms * factor if signal.rms is not None else None,
    )
