"""Reports that every output format must handle: healthy, sick, huge, strange, empty, with every section."""

from __future__ import annotations

from typing import Any

from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.prescription_code import with_code
from gradinspect.contracts.report.report import Measurements, ModelReference, Report, SelfCheck
from gradinspect.contracts.report.sections import (
    Curvature,
    Jacobian,
    LrScales,
    Noise,
    PrecisionSection,
    ProbeCurve,
    ScaleCandidate,
    ScaleEvidence,
    ScaleGroup,
    ScaleRemedy,
    TimeDecay,
    TracePoint,
)
from gradinspect.contracts.report.trial import Change, Prescription
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import judge
from gradinspect.testing.measurements import MODEL, bias, chain, changed, layer, measurements, parameter

# Names that a hostile model may give to layers: terminal escapes, right-to-left override, markup, a line break.
STRANGE = [
    "\x1b[31mred\x1b[0m\x07", "\u202egnp.exe", "<script>alert(1)</script>", "a|b`c``d*e_f[g](h)", "[bold]x[/bold]",
    "line\nbreak", "\u200bzero", "'; drop table --", "層.重み", "{__class__}", "\x9b31m", "https://evil.test @everyone",
]  # fmt: skip


def judged(
    measured: Measurements, model: ModelReference = MODEL, *, policy: Policy = DEFAULT_POLICY, **settings: Any
) -> Report:
    return judge(measured, policy=policy, model=model, inspection=None, settings=InspectionSettings(**settings))


def healthy() -> Report:
    return judged(chain())


PRESCRIPTION = with_code(
    Prescription(
        outcome="found",
        changes=(
            Change(rule="vanishing_signal", action="replace_activation", arguments={"old": "sigmoid", "new": "relu"}),
            Change(rule="vanishing_signal", action="initialize", arguments={"scheme": "he"}),
        ),
        optimizer=Sgd(type="sgd", lr=0.1),
        skill_before=0.0,
        skill_after=0.97,
        curve_before=(2.3, 2.3, 2.3),
        curve=(2.3, 1.1, 0.1),
        seeds=3,
        tried=4,
    )
)


def sick() -> Report:
    measured = chain((0.25,) * 10, nonlinearity="sigmoid", slope=0.2)
    measured = measured.model_copy(update={"prescription": PRESCRIPTION})
    return judged(changed(measured, "3", saturated_fraction=0.4))


def huge(depth: int = 1500) -> Report:
    measured = changed(chain((0.97,) * depth), "700", nonfinite_count=3)
    return judged(changed(measured, "900", backward_gain=0.1))


def strange() -> Report:
    """Make a report in which every name is hostile and every layer is in a finding."""
    layers, parameters = [], []
    for depth, name in enumerate(STRANGE):
        owned = (f"{name}.weight", f"{name}.bias")
        layers.append(layer(
            depth, name=name, kind=name, parameters=owned, nonlinearity=name, nonfinite_count=1,
            cumulative_backward_gain=0.25 ** (len(STRANGE) - depth), backward_gain=0.25,
        ))  # fmt: skip
        parameters += [parameter(owned[0], layer=name, status="unused"), bias(owned[1], layer=name, nan_count=1)]
    groups = tuple(
        ScaleGroup(layer=name, parameters=(f"{name}.weight",), scale=2.0 + i) for i, name in enumerate(STRANGE)
    )
    scales = LrScales(verdict="use", method=STRANGE[0], base_lr=0.1, groups=groups)
    measured = measurements(layers, parameters, lr_scales=scales, noise=Noise(status="undetermined", reason=STRANGE[2]))
    return judged(measured, ModelReference(kind="module", name=STRANGE[0] + STRANGE[2]))


def scales(**fields: Any) -> LrScales:
    groups = tuple(
        ScaleGroup(layer=str(i), parameters=(f"{i}.weight", f"{i}.bias"), scale=2.0 ** (5 - 2 * i), cv=0.03)
        for i in range(6)
    )
    given: dict[str, Any] = {
        "verdict": "use", "method": "newton", "base_lr": 0.03, "groups": groups,
        "candidates": (ScaleCandidate(method="newton", spread_dex=3.01, ratio=0.45, per_seed=(0.4, 0.5, 0.46)),),
        "evidence": ScaleEvidence(
            statement="This covers 100 steps of 3 paired seeds.", steps=100, seeds=3, seeds_are="initialisations",
            is_synthetic=True, samples=1000, batch_size=128,
            curves=(ProbeCurve(arm="uniform", base_lr=0.1, losses=tuple(2.3 - 0.001 * i for i in range(100))),
                    ProbeCurve(arm="newton", base_lr=0.1, losses=tuple(2.3 - 0.01 * i for i in range(100)))),
        ),
    }  # fmt: skip
    return LrScales(**(given | fields))


def full() -> Report:
    """Make a report with every section."""
    return judged(chain(
        (0.5,) * 5,
        lr_scales=scales(),
        noise=Noise(batch_size=128, grad_snr=0.4, noise_scale=317.0),
        curvature=Curvature(hessian_trace=12.5, top_eigenvalue=7.25, products=40),
        jacobian=Jacobian(largest=2.5, smallest=1e-5, mean_square=0.125, samples=16),
        precision=PrecisionSection(compute="float32", intended="float16", fp16_flush_fraction=0.36,
                                   loss_scale_window=(691.0, 122252.0)),
        time_decay=TimeDecay(slope_log10_per_step=-0.011, steps_used=3, trace=tuple(
            TracePoint(step=i, loss=2.3 - i / 10, total_grad_norm=1.0) for i in range(3))),
        self_checks=(SelfCheck(name="balance_identity", status="failed", value=0.5, tolerance=1e-6, detail="off"),),
    ))  # fmt: skip


def nothing_learns() -> Report:
    remedies = (
        ScaleRemedy(name="rescaled_weights", learned=True, loss_ratio=0.07, code="import torch\n\nmodel.eval()\n"),
        ScaleRemedy(name="adam", learned=False, loss_ratio=1.0, code="never_shown = True\n"),
    )
    return judged(chain((0.25,) * 10, lr_scales=scales(verdict="none_learns", groups=(), remedies=remedies)))


def undetermined() -> Report:
    return judged(chain((), curvature=Curvature(status="undetermined", reason="the loss is not twice differentiable")))


def empty() -> Report:
    return judged(measurements((), (), loss=None, expected=None))


ALL = [healthy, sick, huge, strange, full, nothing_learns, undetermined, empty]
