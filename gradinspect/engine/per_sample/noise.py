"""Gradient noise over the samples of the batch: signal-to-noise ratio and noise scale.

Source: McCandlish et al. 2018, "An empirical model of large-batch training", section 2.2 and appendix A.1: with the
mean gradient over B samples and single-sample gradients (b = 1), the unbiased estimates are
G² = (B‖g_B‖² − mean‖g_n‖²)/(B − 1) and S = (mean‖g_n‖² − ‖g_B‖²)/(1 − 1/B); B_simple = S/G², a ratio of means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradinspect.contracts.report.sections import LayerNoise, Noise
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.first_order.replay import replaying
from gradinspect.engine.network.parameters import ParameterEntry, owner_of
from gradinspect.engine.per_sample.sample_gradients import SampleMoments, sample_gradient_moments
from gradinspect.engine.per_sample.sample_norms import SampleNorms, sample_norms
from gradinspect.engine.tracing.naming import layer_of_parameters

PASSES = 1.5  # cost in first passes: a forward and a backward pass without weight gradients, probe and norms


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of the gradient of one or several parameters.

    Attributes:
        gradient_norm_squared: G², unbiased; negative where noise dominates.
        covariance_trace: S, the trace of the covariance of one sample's gradient.
        grad_snr: ‖G‖/√(S/B); None where G² ≤ 0 or S = 0.
        noise_scale: S/G², in samples; None where G² ≤ 0.
    """

    gradient_norm_squared: float
    covariance_trace: float
    grad_snr: float | None
    noise_scale: float | None


def estimate_noise(moments: Iterable[SampleMoments], samples: int) -> NoiseEstimate:
    """Compute the unbiased pair G², S and its ratios over some parameters.

    `grad_snr` is that of the batch: the length of the gradient over the standard deviation of its estimate.

    For gradients (3, 0) and (1, 2) G² is their inner product 3, and S is half the square of their difference, 4:

    >>> estimate = estimate_noise([SampleMoments(mean_square=7.0, square_of_mean=5.0)], samples=2)
    >>> estimate.gradient_norm_squared, estimate.covariance_trace
    (3.0, 4.0)
    """
    parts = list(moments)
    single = math.fsum(part.mean_square for part in parts)
    batch = math.fsum(part.square_of_mean for part in parts)
    signal = (samples * batch - single) / (samples - 1)
    trace = max((single - batch) / (1 - 1 / samples), 0.0)
    if signal <= 0 or not math.isfinite(signal):
        return NoiseEstimate(signal, trace, None, None)
    return NoiseEstimate(signal, trace, math.sqrt(samples * signal / trace) if trace > 0 else None, trace / signal)


def noise_section(s: SectionInput) -> SectionResult:
    """Measure the noise per parameter, per layer and in total.

    Cost: a forward and a backward pass without weight gradients, a probe on two samples, and the norms: near one bare
    pass, with less memory.
    """
    samples = s.batch.inputs[0].shape[0] if s.batch.inputs[0].dim() else 1
    reason = _not_measurable(s, samples) or refused(s.budget, PASSES * s.pass_seconds)
    if reason is not None:
        return SectionResult(Noise(status="undetermined", reason=reason, batch_size=samples))
    with replaying(s):
        norms = sample_norms(s, samples)
        s.progress(0.7)
        if isinstance(norms, str):
            return SectionResult(Noise(status="undetermined", reason=norms, batch_size=samples))
        moments = _ghost_moments(s, norms)
        missing = dict(norms.missing)
        moments |= _remaining_moments(s, norms.without_formula, missing, samples)
    return _report(s, moments, missing, samples)


def _not_measurable(s: SectionInput, samples: int) -> str | None:
    if samples < 2:
        return "the batch holds one sample; noise needs two"
    broken = [
        entry.name for entry, read in s.reading.gradients.items() if read.moments.nan_count or read.moments.inf_count
    ]
    if broken:
        return f"gradients are not finite, first in {broken[0]}"
    if not s.reading.output_shape or s.reading.output_shape[0] != samples:
        return f"the output {list(s.reading.output_shape)} does not count the {samples} samples on its first axis"
    return None


def _ghost_moments(s: SectionInput, norms: SampleNorms) -> dict[ParameterEntry, SampleMoments]:
    return {
        entry: SampleMoments(mean_square, s.reading.gradients[entry].moments.square_total)
        for entry, mean_square in norms.mean_squares.items()
    }


def _remaining_moments(
    s: SectionInput, entries: list[ParameterEntry], missing: dict[ParameterEntry, str], samples: int
) -> dict[ParameterEntry, SampleMoments]:
    """Differentiate one sample at a time, for parameters without formula; note in `missing` why that fails."""
    if not entries:
        return {}
    reason = refused(s.budget, samples * s.pass_seconds)
    moments = sample_gradient_moments(s, entries) if reason is None else None
    if moments is not None:
        return moments
    missing.update(dict.fromkeys(entries, reason or "its gradient cannot be taken for one sample at a time"))
    return {}


def _report(
    s: SectionInput,
    moments: Mapping[ParameterEntry, SampleMoments],
    missing: Mapping[ParameterEntry, str],
    samples: int,
) -> SectionResult:
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    layers: dict[str, list[ParameterEntry]] = {}
    for entry in s.parameters:
        if entry in s.reading.gradients:
            layers.setdefault(layer_of.get(entry, owner_of(entry.name) or entry.name), []).append(entry)
    fields = {}
    for entry, part in moments.items():
        noise = estimate_noise([part], samples)
        fields[entry.name] = {"grad_snr": noise.grad_snr, "noise_scale": noise.noise_scale}
    rows = tuple(_layer_row(name, entries, moments, missing, samples) for name, entries in layers.items())
    if not moments:
        first = next(iter(missing.values()), "no parameter has a gradient")
        return SectionResult(Noise(status="undetermined", reason=first, batch_size=samples, layers=rows))
    if missing:
        reason = (
            f"{len(missing)} of {len(moments) + len(missing)} parameters are missing from a total, "
            f"first {next(iter(missing)).name}: {next(iter(missing.values()))}"
        )
        return SectionResult(Noise(status="undetermined", reason=reason, batch_size=samples, layers=rows), fields)
    total = estimate_noise(moments.values(), samples)
    section = Noise(
        batch_size=samples,
        grad_snr=total.grad_snr,
        noise_scale=total.noise_scale,
        gradient_norm_squared=total.gradient_norm_squared,
        covariance_trace=total.covariance_trace,
        layers=rows,
    )
    return SectionResult(section, fields)


def _layer_row(
    name: str,
    entries: list[ParameterEntry],
    moments: Mapping[ParameterEntry, SampleMoments],
    missing: Mapping[ParameterEntry, str],
    samples: int,
) -> LayerNoise:
    reason = next((missing[entry] for entry in entries if entry in missing), None)
    if reason is not None:
        return LayerNoise(layer=name, reason=reason)
    noise = estimate_noise([moments[entry] for entry in entries], samples)
    return LayerNoise(layer=name, grad_snr=noise.grad_snr, noise_scale=noise.noise_scale)
