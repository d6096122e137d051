"""One record per section of a report: its names, labels, cost, and the function that computes it.

The request, the report, the engine's plan, the command line and the pages read this list. It imports neither torch nor
pydantic, so that the command line's help stays fast; the documents are in `contracts/report/sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Diagnostic = Literal["gradients", "signals", "noise", "curvature", "jacobian", "training_trace"]
DIAGNOSTICS: tuple[Diagnostic, ...] = get_args(Diagnostic)


@dataclass(frozen=True, slots=True)
class Computation:
    """How a section is computed after the first pass.

    Attributes:
        module: the module below `gradinspect` that computes it; imported when the section is requested.
        function: its function, of type `engine.first_order.context.Section`.
        weight: share of the remaining time, relative to the other requested sections. Chosen by the usual number of
        passes of each: two for noise, about forty for curvature, hundreds of training steps for scales.
        usual_passes: cost of a usual result, in first passes. A section may take this much even where its share is
            smaller (see `inspection.sections.MOST_OF_THE_REST`). None for scales, whose probes have a budget.
        largest_share: of the remaining time, unless the request itself sets the section's seconds.
    """

    module: str
    function: str
    weight: float
    usual_passes: float | None
    largest_share: float = 1.0


@dataclass(frozen=True, slots=True)
class SectionRecord:
    """The facts about one section that several parts of the project need.

    Attributes:
        name: the field of the report.
        title: the heading in every form of the report.
        diagnostic: the name in a request's `diagnostics`; None for a section that has no name there.
        computation: None for a section that the first pass measures.
        labels: field of the section's document to the words that a report shows; the field's own name where absent.
    """

    name: str
    title: str
    diagnostic: Diagnostic | None = None
    computation: Computation | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """The name in progress messages and in `environment.stages`."""
        return self.diagnostic or self.name


# In the order in which a report shows them.
SECTIONS: tuple[SectionRecord, ...] = (
    SectionRecord(
        "depth_decay",
        "Signal against depth",
        labels={
            "slope_log10_per_layer": "decades per layer call",
            "stderr": "standard error",
            "r2": "r² of the fit",
            "cumulative_gain": "first layer call over last",
            "layers_used": "layer calls fitted",
        },
    ),
    SectionRecord(
        "time_decay",
        "Gradients over training steps",
        "training_trace",
        Computation("inspection.training_trace", "training_trace_section", weight=2.0, usual_passes=45.0),
        {"slope_log10_per_step": "decades per step", "stderr": "standard error", "r2": "r² of the fit"},
    ),
    SectionRecord(
        "noise",
        "Gradient noise",
        "noise",
        Computation("engine.per_sample.noise", "noise_section", weight=1.0, usual_passes=3.0),
        {
            "grad_snr": "signal to noise of the gradient",
            "noise_scale": "noise scale, in samples",
            "gradient_norm_squared": "|g|²",
            "covariance_trace": "trace of the gradient covariance",
        },
    ),
    SectionRecord(
        "curvature",
        "Curvature",
        "curvature",
        Computation("engine.curvature.curvature", "curvature_section", weight=4.0, usual_passes=40.0),
        {
            "hessian_trace": "trace of the Hessian",
            "hessian_trace_stderr": "its standard error",
            "curvature_along_gradient": "curvature along the gradient",
            "top_eigenvalue": "largest eigenvalue",
            "top_eigenvalue_residual": "its residual",
            "products": "Hessian-vector products",
        },
    ),
    SectionRecord(
        "jacobian",
        "Input-output Jacobian",
        "jacobian",
        Computation("engine.curvature.jacobian", "jacobian_section", weight=1.0, usual_passes=20.0),
        {
            "largest": "largest singular value",
            "smallest": "smallest singular value",
            "mean_square": "mean squared singular value",
        },
    ),
    SectionRecord(
        "precision",
        "Effect of low precision",
        labels={
            "compute": "computed in",
            "intended": "intended for",
            "fp16_flush_fraction": "gradients that float16 flushes to zero",
            "bf16_flush_fraction": "gradients that bfloat16 flushes to zero",
            "fp8_e4m3_flush_fraction": "gradients that float8 (e4m3) flushes to zero",
            "fp8_e5m2_flush_fraction": "gradients that float8 (e5m2) flushes to zero",
            "loss_scale_window": "loss scales that keep float16 gradients normal",
        },
    ),
    SectionRecord(
        "trial",
        "Learning trial",
        computation=Computation("probes.trial.section", "trial_section", 2.0, 40.0, largest_share=0.25),
        labels={
            "chance_loss": "loss of the best constant output",
            "floor_loss": "smallest possible loss",
            "initial_loss": "first loss",
            "steps_at_declared_rate": "steps needed at the declared rate",
            "steps_run": "steps run",
            "max_steps": "steps allowed",
        },
    ),
    SectionRecord(
        "lr_scales",
        "Learning-rate scales",
        computation=Computation("probes.lr_scales", "suggest_scales", weight=20.0, usual_passes=None),
    ),
)
SECTION: Mapping[str, SectionRecord] = {record.name: record for record in SECTIONS}
