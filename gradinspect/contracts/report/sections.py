"""The sections of a report: fits, noise, curvature, Jacobian, precision, learning-rate scales.

A section that was not requested is absent; one that could not be computed is `undetermined`, with its reason.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Name, Text
from gradinspect.contracts.report.rows import Names, Number, Share
from gradinspect.contracts.report.section import Code, Losses, Section
from gradinspect.contracts.report.trial import Trial

MAX_LAYERS = 50_000  # layer calls; a 2,000-step recurrent net of 8 layers stays under it

ScalesVerdict = Literal["use", "keep_uniform", "inconclusive_plateau", "none_learns", "undetermined"]


class DepthDecay(Section):
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


class TimeDecay(Section):
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


class Noise(Section):
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


class Curvature(Section):
    """Exact Hessian-vector products: Hutchinson's trace, Lanczos' top eigenvalue, gᵀHg/gᵀg."""

    hessian_trace: Number = None
    hessian_trace_stderr: Number = None
    curvature_along_gradient: Number = None
    top_eigenvalue: Number = None
    top_eigenvalue_residual: Number = None
    products: Count = 0
    layers: Annotated[tuple[LayerCurvature, ...], Field(max_length=MAX_LAYERS)] = ()


class Jacobian(Section):
    """Singular values of the input-output Jacobian."""

    largest: Number = None
    smallest: Number = None
    mean_square: Number = None
    samples: Count = 0


class PrecisionSection(Section):
    """The effect of low precision on the measured gradients."""

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
        description="[2⁻¹⁴ / p01 of non-zero |g|, 65504 / max |g|]: scales that keep fp16 gradients normal. No scale "
        "does where the first is the larger.",
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
        "divide by, and 1/RMS(g) is used.",
    )


class ScaleCandidate(Document):
    """One method's suggestion, and its result compared with uniform."""

    method: Name
    spread_dex: Number = Field(default=None, description="log10 of the largest scale over the smallest.")
    base_lr: Number = Field(default=None, description="Its best base rate in the probe.")
    ratio: Number = Field(default=None, description="exp(A − A_uniform), each arm at its own best base rate.")
    per_seed: Annotated[tuple[Number, ...], Field(max_length=64)] = ()
    groups: Annotated[tuple[ScaleGroup, ...], Field(max_length=MAX_LAYERS)] = ()
    reason: Text | None = Field(default=None, description="Why this method has no suggestion, or was not probed.")


class ProbeCurve(Document):
    """The training loss of one arm at one base rate, minibatch by minibatch; geometric mean over the paired seeds."""

    arm: Name
    base_lr: Finite
    losses: Losses


class ScaleEvidence(Document):
    """The training runs behind the verdict, and their data."""

    statement: Text = Field(description="One sentence: what the evidence covers.")
    steps: Count = Field(description="T, the length of each run.")
    seeds: Count = Field(description="Paired runs of each arm.")
    confirming_seeds: Count = Field(
        default=0, description="Further paired runs in which the best candidate had to win again, at the same rates."
    )
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


class WeightGain(Document):
    """The factor by which a remedy multiplies one weight."""

    parameter: Name
    gain: Finite


class ScaleRemedy(Document):
    """Another remedy, probed where no scale learns or the signal fails."""

    name: Name
    learned: bool
    loss_ratio: Number = Field(default=None, description="Loss at the end of the probe over the reference loss.")
    base_lr: Number = None
    curve: Losses = ()
    gains: Annotated[tuple[WeightGain, ...], Field(max_length=MAX_LAYERS)] = Field(
        default=(), description="Of `rescale_gains`: the weights that it rescales."
    )
    code: Code | None = Field(default=None, description="Left out where it would be longer than two million letters.")


class LrScales(Section):
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
    """Variation of one layer call's numbers from seed to seed: standard deviations of their log2."""

    signal_rms: Number = None
    cumulative_backward_gain: Number = None
    backward_gain: Number = None
    forward_gain: Number = None
    grad_norm: Number = Field(default=None, description="Of the layer's parameters together.")


class SeedSpread(Section):
    """Variation between the seeds or batches that the rows are averages over."""

    seeds: Count
    layers: Annotated[tuple[LayerSpread, ...], Field(max_length=MAX_LAYERS)] = Field(
        default=(), description="In the order of the report's layers."
    )


class Sections(Document):
    """The sections of a report, one field each; `contracts.sections` has their names, words and costs."""

    depth_decay: DepthDecay | None = None
    time_decay: TimeDecay | None = None
    noise: Noise | None = None
    curvature: Curvature | None = None
    jacobian: Jacobian | None = None
    precision: PrecisionSection | None = None
    trial: Trial | None = None
    lr_scales: LrScales | None = None


def section_document(name: str) -> type[Section]:
    """Return the document of a section by its field, `Noise` for "noise"."""
    document: type[Section] = get_args(Sections.model_fields[name].annotation)[0]
    return document
