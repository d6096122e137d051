"""Rules of other tools, with absolute and relative thresholds, applied to our measurements.

Sources: Amazon SageMaker Debugger, List of built-in rules, with its default parameters; Zhang, Zhai, Ma and Shen 2021,
AUTOTRAINER (ICSE), with the defaults of its published program (β₁ = 1e-3, β₂ = 1e-4, β₃ = 70, γ = 0.7). Both watch
training; here they judge a single step as they would during training.
"""

from __future__ import annotations

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement

VANISHING = 1e-7  # SageMaker, VanishingGradient: threshold of mean |g|
VARIANCES = 10.0  # SageMaker, PoorWeightInitialization: threshold of the ratio of variances of ReLU inputs
DEAD_LAYER = 0.5  # SageMaker, DeadRelu: threshold_layer
UPDATES = (1e-8, 10.0)  # SageMaker, WeightUpdateRatio: small_threshold and large_threshold
BETA_1, BETA_2, BETA_3, GAMMA = 1e-3, 1e-4, 70.0, 0.7  # AUTOTRAINER


def sagemaker(report: Report) -> tuple[str, ...]:
    """Return the built-in rules of SageMaker Debugger that would fire.

    PoorWeightInitialization is applied without its second part, which judges the loss of later steps.
    """
    trained = [row for row in report.parameters if row.status in ("trained", "zero")]
    fired = {
        "VanishingGradient": any(_mean_size(row) < VANISHING for row in trained),
        "ExplodingTensor": _is_non_finite(report),
        "PoorWeightInitialization": _variance_ratio(report.layers) > VARIANCES,
        "DeadRelu": any((row.dead_unit_fraction or 0.0) > DEAD_LAYER for row in _relus(report.layers)),
        "WeightUpdateRatio": any(
            not UPDATES[0] <= row.update_to_weight <= UPDATES[1]
            for row in trained
            if row.update_to_weight is not None and row.weight_norm
        ),
    }
    return tuple(name for name, fires in fired.items() if fires)


def autotrainer(report: Report) -> tuple[str, ...]:
    """Return the problems that AUTOTRAINER's gradient checks would report."""
    if any(row.nan_count or row.inf_count or row.weight_nonfinite_count for row in report.parameters):
        return ("explode",)
    kernels = [
        row.grad_norm or 0.0 for row in report.parameters if row.status in ("trained", "zero") and _axes(row) > 1
    ]
    if not kernels:
        return ()
    first, last = kernels[0], kernels[-1]
    ratio = first / last if last > 0 else float("nan")  # as in numpy; comparisons with it are False
    counted = [row for row in report.parameters if row.zero_fraction is not None or row.status == "zero"]
    zeros = sum((1.0 if row.status == "zero" else row.zero_fraction or 0.0) * row.numel for row in counted)
    fired = {
        "vanish": ratio < BETA_1 and first < BETA_2,
        "explode": ratio > BETA_3,
        "dying ReLU": zeros >= GAMMA * max(sum(row.numel for row in counted), 1),
    }
    return tuple(name for name, fires in fired.items() if fires)


def _mean_size(row: ParameterMeasurement) -> float:
    return row.grad_abs_mean if row.grad_abs_mean is not None else float("nan")


def _axes(row: ParameterMeasurement) -> int:
    return len(row.shape)


def _is_non_finite(report: Report) -> bool:
    layers = any(row.nonfinite_count for row in report.layers)
    return layers or any(row.nan_count or row.inf_count or row.weight_nonfinite_count for row in report.parameters)


def _relus(layers: tuple[LayerMeasurement, ...]) -> list[LayerMeasurement]:
    return [row for row in layers if row.nonlinearity == "relu"]


def _variance_ratio(layers: tuple[LayerMeasurement, ...]) -> float:
    deviations = [row.preactivation.std for row in _relus(layers) if row.preactivation is not None]
    positive = [deviation for deviation in deviations if deviation]
    return (max(positive) / min(positive)) ** 2 if positive else 1.0
