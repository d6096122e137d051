"""The report: what was measured, per layer call and per parameter, and what was found in it.

Definitions of every number: docs/diagnostics.md. A number that is not finite, or that has no meaning for its layer, is
`None`; a count beside it (`nonfinite_count`, `nan_count`, `inf_count`) says when values were not finite. Documents
arrive from confined processes that ran strangers' models, so every string and every list is bounded here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Fraction, Name, Text
from gradinspect.contracts.request import Optimizer

MAX_LAYERS = 50_000  # layer calls; a 2,000-step recurrent net of 8 layers stays under it
MAX_PARAMETERS = 50_000

Number = Finite | None
Share = Fraction | None
ScalesVerdict = Literal["use", "keep_uniform", "inconclusive_plateau", "none_learns", "undetermined"]
Verdict = Literal["pass", "warn", "fail", "undetermined"]
Severity = Literal["info", "warn", "fail"]
ParameterStatus = Literal["trained", "frozen", "unused", "zero"]
SectionStatus = Literal["measured", "undetermined"]
Names = Annotated[tuple[Name, ...], Field(max_length=1024)]
Sizes = Annotated[tuple[Count, ...], Field(max_length=16)]


class ActivationStatistics(Document):
    """The layer call's output as the next layer sees it: after the activation function, where one follows."""

    mean: Number = None
    std: Number = None
    rms: Number = None
    abs_max: Number = None


class SignalStatistics(Document):
    """The gradient of the mean-reduced loss with respect to the layer call's output (pre-activation)."""

    norm: Number = None
    rms: Number = None


class LayerMeasurement(Document):
    """One call of one layer. A module that runs twice in a forward pass gives two of these."""

    depth: Count = Field(description="Place in topological order of the graph, 0 nearest the input.")
    name: Name
    call: Count = Field(description="0 for the first call of this layer in the forward pass.")
    kind: Name = Field(description="Linear, Conv2d, LayerNorm …, or the operation's name where no module is known.")
    parameters: Names
    output_shape: Sizes
    activation: ActivationStatistics | None = None
    preactivation: ActivationStatistics | None = Field(
        default=None, description="The output before the nonlinearity, where one follows; else `activation` is it."
    )
    nonlinearity: Name | None = Field(default=None, description="The activation function that follows: relu, tanh …")
    signal: SignalStatistics | None = None
    forward_gain: Number = Field(default=None, description="rms of `activation` over rms of the data that entered.")
    backward_gain: Number = Field(default=None, description="‖δ_l‖ / ‖δ_{l+1}‖, the next call nearer the loss.")
    activation_gain: Number = Field(default=None, description="The nonlinearity's part of backward_gain.")
    weight_gain: Number = Field(default=None, description="The weight's part of backward_gain.")
    cumulative_backward_gain: Number = Field(default=None, description="‖δ_l‖ / ‖δ_L‖, L the last call.")
    dead_unit_fraction: Share = None
    saturated_fraction: Share = None
    mean_squared_slope: Number = None
    sample_similarity: Number = Field(default=None, description="Mean cosine similarity between samples.")
    nonfinite_count: Count = 0
    predicted_chi1: Number = None
    measured_chi1: Number = None


class Quantiles(Document):
    """Quantiles of |g|."""

    p01: Number = None
    p05: Number = None
    p25: Number = None
    p50: Number = None
    p75: Number = None
    p95: Number = None
    p99: Number = None


class Log2Histogram(Document):
    """Counts of |g| by binary exponent: `counts[i]` has 2^(lowest+i) ≤ |g| < 2^(lowest+i+1)."""

    lowest: int
    counts: Annotated[tuple[Count, ...], Field(max_length=128)]
    below: Count = Field(default=0, description="Non-zero values under the lowest bin.")
    above: Count = Field(default=0, description="Finite values over the highest bin.")
    zeros: Count = 0
    sampled: bool = Field(default=False, description="True when a strided sample stands for all elements.")


class ParameterMeasurement(Document):
    """One parameter tensor; a shared tensor once, with its other names as aliases."""

    name: Name
    aliases: Names = ()
    layer: Name
    shape: Sizes
    numel: Count
    dtype: Name
    status: ParameterStatus
    grad_norm: Number = None
    grad_rms: Number = None
    grad_mean: Number = None
    grad_std: Number = None
    grad_abs_max: Number = None
    grad_abs_mean: Number = None
    grad_quantiles: Quantiles | None = None
    log2_histogram: Log2Histogram | None = None
    zero_fraction: Share = None
    nan_count: Count = 0
    inf_count: Count = 0
    weight_norm: Number = None
    weight_rms: Number = None
    weight_nonfinite_count: Count = 0
    grad_to_weight: Number = None
    update_norm: Number = None
    update_to_weight: Number = None
    grad_snr: Number = None
    noise_scale: Number = None
    hessian_trace: Number = None
    curvature_along_gradient: Number = None
    top_eigenvalue: Number = None
    fp16_flush_fraction: Share = None
    bf16_flush_fraction: Share = None


class _Section(Document):
    status: SectionStatus = "measured"
    reason: Text | None = Field(default=None, description="Why this section could not be computed.")


class DepthDecay(_Section):
    """Least squares of log10(signal rms) against layer calls, counted from the output to the input."""

    slope_log10_per_layer: Number = None
    stderr: Number = None
    r2: Number = None
    cumulative_gain: Number = Field(default=None, description="‖δ_first‖ / ‖δ_last‖ over the layers used.")
    layers_used: Count = 0


class TracePoint(Document):
    """One step of a short training run with the declared optimizer."""

    step: Count
    loss: Number
    total_grad_norm: Number
    layer_grad_norms: Annotated[tuple[Number, ...], Field(max_length=MAX_LAYERS)] = ()
    layer_update_to_weight: Annotated[tuple[Number, ...], Field(max_length=MAX_LAYERS)] = ()


class TimeDecay(_Section):
    """Least squares of log10(total gradient norm) against training steps, with the trace it was fitted to."""

    slope_log10_per_step: Number = None
    stderr: Number = None
    r2: Number = None
    steps_used: Count = 0
    layers: Annotated[tuple[Name, ...], Field(max_length=MAX_LAYERS)] = ()
    trace: Annotated[tuple[TracePoint, ...], Field(max_length=5000)] = ()


class LayerNoise(Document):
    """Gradient noise over the samples of the batch, in the parameters of one layer."""

    layer: Name
    grad_snr: Number = None
    noise_scale: Number = None
    reason: Text | None = Field(default=None, description="Why this layer has no per-sample gradients.")


class Noise(_Section):
    """Gradient noise over the samples of the batch, in total and per layer (McCandlish et al. 2018)."""

    batch_size: Count | None = None
    grad_snr: Number = Field(default=None, description="‖G‖ / √(tr Σ / batch_size), G the mean gradient, unbiased.")
    noise_scale: Number = Field(default=None, description="B_simple = tr Σ / ‖G‖², in samples.")
    gradient_norm_squared: Number = None
    covariance_trace: Number = None
    layers: Annotated[tuple[LayerNoise, ...], Field(max_length=MAX_LAYERS)] = ()


class LayerCurvature(Document):
    """Curvature restricted to the parameters of one layer."""

    layer: Name
    hessian_trace: Number = None
    hessian_trace_stderr: Number = None
    curvature_along_gradient: Number = None
    top_eigenvalue: Number = None
    top_eigenvalue_residual: Number = None
    reason: Text | None = Field(default=None, description="Why a number of this layer is missing.")


class Curvature(_Section):
    """Exact Hessian-vector products: Hutchinson's trace, Lanczos' top eigenvalue, gᵀHg/gᵀg."""

    hessian_trace: Number = None
    hessian_trace_stderr: Number = None
    curvature_along_gradient: Number = None
    top_eigenvalue: Number = None
    top_eigenvalue_residual: Number = None
    products: Count = 0
    layers: Annotated[tuple[LayerCurvature, ...], Field(max_length=MAX_LAYERS)] = ()


class Jacobian(_Section):
    """Singular values of the input-output Jacobian."""

    largest: Number = None
    smallest: Number = None
    mean_square: Number = None
    samples: Count = 0


class PrecisionSection(_Section):
    """What low precision would do to the gradients that were measured."""

    compute: Name | None = Field(
        default=None, description="float16 and bfloat16 by autocast over float32 weights, unless the file holds others."
    )
    intended: Name | None = None
    loss_scale: Number = None
    fp16_flush_fraction: Share = None
    bf16_flush_fraction: Share = None
    fp8_e4m3_flush_fraction: Share = None
    fp8_e5m2_flush_fraction: Share = None
    loss_scale_window: tuple[Finite, Finite] | None = Field(
        default=None,
        description="[2⁻¹⁴ / p01 of non-zero |g|, 65504 / max |g|]: scales that keep fp16 gradients normal.",
    )


class ScaleGroup(Document):
    """One group of parameters that shares a learning-rate scale: those of a leaf module, tied ones together."""

    layer: Name
    parameters: Names
    scale: Number = Field(description="Times the optimizer's base rate; geometric mean 1 over groups with a gradient.")
    grad_norm: Number = None
    weight_norm: Number = None
    cv: Number = Field(default=None, description="Coefficient of variation of grad_norm over parts of the batch.")
    note: Literal["no_gradient", "equalized"] | None = Field(
        default=None,
        description="no_gradient: exactly zero or unused, so the scale is 1. equalized: the method had nothing to "
        "divide by, and 1/RMS(g) stands in.",
    )


class ScaleCandidate(Document):
    """One method's suggestion, and how it fared against uniform."""

    method: Name
    spread_dex: Number = Field(default=None, description="log10 of the largest scale over the smallest.")
    base_lr: Number = Field(default=None, description="Its best base rate in the probe.")
    ratio: Number = Field(default=None, description="exp(A − A_uniform), each arm at its own best base rate.")
    per_seed: Annotated[tuple[Number, ...], Field(max_length=64)] = ()
    groups: Annotated[tuple[ScaleGroup, ...], Field(max_length=MAX_LAYERS)] = ()
    reason: Text | None = Field(default=None, description="Why this method has no suggestion, or was not probed.")


Losses = Annotated[tuple[Number, ...], Field(max_length=6000)]
MAX_CODE = 2_000_000  # letters: an optimizer with a group for each of 30,000 layers
Code = Annotated[str, Field(max_length=MAX_CODE)]


class ProbeCurve(Document):
    """The training loss of one arm at one base rate, minibatch by minibatch; geometric mean over the paired seeds."""

    arm: Name
    base_lr: Finite
    losses: Losses


class ScaleEvidence(Document):
    """What was run to decide, and on what."""

    statement: Text = Field(description="One sentence: what the evidence covers.")
    steps: Count = Field(description="T, the length of each run.")
    seeds: Count = Field(description="Paired runs of each arm.")
    seeds_are: Literal["initialisations", "data_orders"]
    is_synthetic: bool = Field(description="The targets came from a fixed random teacher, not from the caller.")
    samples: Count
    batch_size: Count
    reference_loss: Number = Field(
        default=None, description="The smaller of the initial loss and the best constant output's: what learning beats."
    )
    is_extended: bool = Field(default=False, description="Uniform was still on its plateau, so T was tripled.")
    is_complete: bool = Field(default=True, description="False when the budget ended before everything was tried.")
    optimizer: Name = "sgd"
    steps_run: Count = 0
    max_steps: Count = 0
    max_seconds: Number = None
    curves: Annotated[tuple[ProbeCurve, ...], Field(max_length=64)] = ()


class ScaleRemedy(Document):
    """Another remedy, probed where no scale learns or the signal fails."""

    name: Name
    learned: bool
    loss_ratio: Number = Field(default=None, description="Loss at the end of the probe over the reference loss.")
    base_lr: Number = None
    curve: Losses = ()
    code: Code | None = Field(default=None, description="Left out where it would be longer than two million letters.")


class LrScales(_Section):
    """Per-layer learning-rate scales and the evidence for them."""

    verdict: ScalesVerdict = "undetermined"
    method: Name | None = None
    base_lr: Number = Field(default=None, description="A safe one: half a decade under the probe's best.")
    groups: Annotated[tuple[ScaleGroup, ...], Field(max_length=MAX_LAYERS)] = ()
    candidates: Annotated[tuple[ScaleCandidate, ...], Field(max_length=16)] = ()
    evidence: ScaleEvidence | None = None
    remedies: Annotated[tuple[ScaleRemedy, ...], Field(max_length=32)] = ()
    code: Code | None = Field(
        default=None, description="Python source that builds the optimizer with its param groups for `model`."
    )


class LayerSpread(Document):
    """How much one layer call's numbers vary from seed to seed: standard deviations of their log2."""

    signal_rms: Number = None
    cumulative_backward_gain: Number = None
    backward_gain: Number = None
    forward_gain: Number = None
    grad_norm: Number = Field(default=None, description="Of the layer's parameters together.")


class SeedSpread(_Section):
    """What is known about chance: the rows are averages over seeds or batches, and this is how far those lie apart."""

    seeds: Count
    layers: Annotated[tuple[LayerSpread, ...], Field(max_length=MAX_LAYERS)] = Field(
        default=(), description="In the order of the report's layers."
    )


class RemedyCheck(Document):
    """What was measured with a remedy applied to a fresh copy of the model."""

    action: Name
    arguments: dict[str, Any] = {}  # Any: the remedy's own arguments, as `Remedy` has them
    cumulative_gain: Number = Field(default=None, description="As in `depth_decay`, after the remedy.")
    reason: Text | None = Field(default=None, description="Why nothing could be measured.")


class SelfCheck(Document):
    """An identity that the numbers must satisfy, checked on this very run."""

    name: Name
    status: Literal["passed", "failed", "not_applicable"]
    value: Number = None
    tolerance: Number = None
    detail: Text = ""


class Environment(Document):
    """Where and how the numbers were made."""

    gradinspect_version: Name
    torch_version: Name
    device: Name
    dtype: Name
    threads: Count
    seed: Count
    data_digest: Annotated[str, Field(max_length=80)] | None = None
    synthetic_data: bool = False
    confinement: Name = "none"
    wall_seconds: Number = None
    cpu_seconds: Number = None
    peak_memory_bytes: Count | None = None
    sampled_layers: Count = Field(
        default=0, description="Layer calls with so large an output that slopes or similarity come from a sample of it."
    )
    stages: Annotated[dict[Name, Finite], Field(max_length=32)] = Field(
        default={}, description="Seconds spent in each stage."
    )


class MeasuredSummary(Document):
    """The numbers of the whole model."""

    loss: Number
    expected_initial_loss: Number = None
    parameters: Count
    layers: Count
    total_grad_norm: Number = None


class Measurements(Document):
    """What the engine hands over: numbers without judgement."""

    environment: Environment
    summary: MeasuredSummary
    depth_decay: DepthDecay | None = None
    time_decay: TimeDecay | None = None
    layers: Annotated[tuple[LayerMeasurement, ...], Field(max_length=MAX_LAYERS)] = ()
    parameters: Annotated[tuple[ParameterMeasurement, ...], Field(max_length=MAX_PARAMETERS)] = ()
    noise: Noise | None = None
    curvature: Curvature | None = None
    jacobian: Jacobian | None = None
    precision: PrecisionSection | None = None
    lr_scales: LrScales | None = None
    self_checks: Annotated[tuple[SelfCheck, ...], Field(max_length=64)] = ()
    spread: SeedSpread | None = None
    remedy_checks: Annotated[tuple[RemedyCheck, ...], Field(max_length=16)] = ()


class Remedy(Document):
    """What to change, for a machine; `message` and `explanation` of the finding say it for a person."""

    action: Name
    arguments: dict[str, Any] = {}  # Any: each action has its own arguments, documented with its rule
    code: Annotated[str, Field(max_length=20_000)] | None = None
    checked_gain: Number = Field(
        default=None, description="Cumulative gain measured with the remedy applied; null where it was not tried."
    )


class Finding(Document):
    """One rule that fired: what was measured, against what, and where."""

    rule: Name
    severity: Severity
    layers: Names = ()
    parameters: Names = ()
    value: Number = None
    threshold: Number = None
    message: Text
    explanation: Text
    remedy: Remedy | None = None


class Summary(MeasuredSummary):
    """The numbers of the whole model, with the verdict and the layers and parameters behind it."""

    verdict: Verdict
    worst: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    lr_scales: ScalesVerdict | None = Field(
        default=None, description="The answer about learning-rate scales; null when it was not asked for."
    )


class PolicyReference(Document):
    """The policy that a report was judged by."""

    name: Annotated[str, Field(max_length=64)]
    version: Count


class ModelReference(Document):
    """Which model was inspected."""

    id: Annotated[str, Field(max_length=64)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    kind: Literal["spec", "torchscript", "module"]
    digest: Annotated[str, Field(max_length=80)] | None = None


class Report(Document):
    """Measurements, judged."""

    inspection: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Id of the inspection; null for a local one."
    )
    model: ModelReference
    environment: Environment
    summary: Summary
    verdict: Verdict
    policy: PolicyReference | None = Field(default=None, description="What the findings were judged by.")
    optimizer: Optimizer | None = Field(
        default=None, description="As declared; rules read it when the report is judged again."
    )
    findings: Annotated[tuple[Finding, ...], Field(max_length=1000)] = ()
    depth_decay: DepthDecay | None = None
    time_decay: TimeDecay | None = None
    layers: tuple[LayerMeasurement, ...] = ()
    parameters: tuple[ParameterMeasurement, ...] = ()
    noise: Noise | None = None
    curvature: Curvature | None = None
    jacobian: Jacobian | None = None
    precision: PrecisionSection | None = None
    lr_scales: LrScales | None = None
    self_checks: tuple[SelfCheck, ...] = ()
    spread: SeedSpread | None = None
    remedy_checks: tuple[RemedyCheck, ...] = ()
