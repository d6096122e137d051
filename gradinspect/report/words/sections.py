"""A report's sections as titles and facts, for every form of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

from gradinspect.contracts.report.losses import LossTerm
from gradinspect.contracts.report.report import Report, SelfCheck
from gradinspect.contracts.report.sections import TimeDecay
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sections import SECTION, SECTIONS
from gradinspect.report.words.figures import amount, duration, printable, size
from gradinspect.wording import counted, number, percent

TITLES = {record.name: record.title for record in SECTIONS}
PUSHED = "a client, where the model is"
_MOST_OUTPUTS = 8  # names in a line


class Fact(NamedTuple):
    """A label and its value."""

    label: str
    value: str


@dataclass(frozen=True)
class Section:
    """One measured section in words."""

    name: str
    title: str
    facts: tuple[Fact, ...]


def model_name(report: Report) -> str:
    """Return the model's name, or what there is in its place: its id, or its kind."""
    return report.model.name or report.model.id or report.model.kind


def is_pushed(report: Report) -> bool:
    """Check whether a client measured the report and pushed it to a service, which has not seen the model."""
    return report.measured_by == "client" and report.inspection is not None


def headline_facts(report: Report) -> tuple[Fact, ...]:
    """List what is shown under the headline: sizes, the loss, the change of the signal, the time."""
    summary, environment = report.summary, report.environment
    loss = number(summary.loss) if summary.loss is not None else "not finite"
    if summary.expected_initial_loss is not None:
        loss += f" (a uniform guess gives {number(summary.expected_initial_loss)})"
    facts = [
        Fact("layer calls", f"{summary.layers:,}"),
        Fact("parameters", amount(summary.parameters)),
        Fact("loss", loss),
    ]
    slope = report.depth_decay.slope_log10_per_layer if report.depth_decay is not None else None
    if slope is not None:
        facts.append(Fact("backward signal per layer call", f"× {number(10 ** max(-300.0, min(slope, 300.0)))}"))
    if report.spread is not None and report.spread.seeds > 1:
        facts.append(Fact("averaged over", counted(report.spread.seeds, "seed")))
    if environment.wall_seconds is not None:
        facts.append(Fact("measured in", f"{duration(environment.wall_seconds)} on {printable(environment.device)}"))
    return tuple(facts)


def measured_sections(report: Report) -> tuple[Section, ...]:
    """List the sections that have numbers. The trial and the learning-rate scales have separate forms."""
    measured = []
    for name, title in TITLES.items():
        section = getattr(report, name)
        if section is None or section.status != "measured" or name in ("trial", "lr_scales"):
            continue
        facts = _facts(section, SECTION[name].labels)
        if isinstance(section, TimeDecay):
            facts = [*_trace_facts(section), *facts]
        if facts:
            measured.append(Section(name, title, tuple(facts)))
    return (*measured, *_loss_sections(report))


def missing_sections(report: Report, settings: InspectionSettings | None = None) -> tuple[Fact, ...]:
    """List the sections without numbers, with the reason.

    Args:
        report: the report.
        settings: what was requested; without it, sections that were not requested are not listed.
    """
    missing = []
    for record in SECTIONS:
        section, diagnostic = getattr(report, record.name), record.diagnostic
        if section is not None and section.status == "undetermined":
            missing.append(Fact(record.title, printable(section.reason or "no reason was given")))
        elif section is None and settings is not None and diagnostic and diagnostic not in settings.diagnostics:
            missing.append(Fact(record.title, f"not requested (diagnostic {diagnostic})"))
    return tuple(missing)


def request_facts(settings: InspectionSettings) -> tuple[Fact, ...]:
    """List what was requested."""
    optimizer = settings.optimizer
    return (
        Fact("loss", str(settings.loss)),
        Fact("mode", settings.mode),
        Fact("diagnostics", ", ".join(settings.diagnostics)),
        Fact("data", _data(settings)),
        Fact("optimizer", "none declared" if optimizer is None else f"{optimizer.type}, lr {optimizer.lr:g}"),
        Fact("precision", _precision(settings)),
        Fact("seeds", f"{settings.seeds}, from {settings.seed}"),
    )


def _data(settings: InspectionSettings) -> str:
    data = settings.data
    if isinstance(data, ArtifactData):
        return f"uploaded, {data.artifact[:19]}…"
    return "synthetic" if data is None or data.samples is None else f"synthetic, {data.samples} samples"


def _precision(settings: InspectionSettings) -> str:
    precision = settings.precision
    computed = precision.compute or "the model's own"
    if not precision.intended:
        return computed
    return f"{computed}, for {precision.intended} at loss scale {precision.loss_scale:g}"


def environment_facts(report: Report) -> tuple[Fact, ...]:
    """List where and how the numbers were measured, and the policy that judged them."""
    environment = report.environment
    data = "drawn from the seed" if environment.synthetic_data else "the caller's"
    if environment.data_digest is not None:
        data += f", {printable(environment.data_digest)[:19]}…"
    facts = [
        *([Fact("measured by", PUSHED)] if is_pushed(report) else []),
        Fact("gradinspect", printable(environment.gradinspect_version)),
        Fact("torch", printable(environment.torch_version)),
        Fact("device", printable(environment.device)),
        Fact("dtype", printable(environment.dtype)),
        Fact("threads", str(environment.threads)),
        Fact("seed", str(environment.seed)),
        Fact("batch", data),
        Fact("confinement", printable(environment.confinement)),
    ]
    if environment.wall_seconds is not None:
        cpu = f", {duration(environment.cpu_seconds)} of CPU time" if environment.cpu_seconds is not None else ""
        facts.append(Fact("time", duration(environment.wall_seconds) + cpu))
    if environment.peak_memory_bytes is not None:
        facts.append(Fact("peak memory", size(environment.peak_memory_bytes)))
    if report.policy is not None:
        version = f", version {report.policy.version}" if report.policy.name != DEFAULT_POLICY.name else ""
        facts.append(Fact("policy", printable(report.policy.name) + version))
    return tuple(facts)


def self_check_facts(report: Report) -> tuple[Fact, ...]:
    """List the self-checks with their outcomes."""
    return tuple(Fact("self-check", self_check_words(check)) for check in report.self_checks)


def self_check_words(check: SelfCheck) -> str:
    """Write one self-check on a line: balance identity passed (1.2e-8, allowed 1e-6)."""
    words = f"{printable(check.name).replace('_', ' ')} {check.status.replace('_', ' ')}"
    if check.value is not None:
        allowed = f", allowed {number(check.tolerance)}" if check.tolerance is not None else ""
        words += f" ({number(check.value)}{allowed})"
    return f"{words}: {printable(check.detail)}" if check.detail and check.status != "passed" else words


def _loss_sections(report: Report) -> tuple[Section, ...]:
    """Describe which outputs the loss reads, and the terms of a loss that has several."""
    sections = []
    if report.outputs is not None and report.outputs.unused:
        facts = (Fact("in the loss", _names(report.outputs.used)), Fact("not in it", _names(report.outputs.unused)))
        sections.append(Section("outputs", "Outputs", facts))
    if report.losses:
        sections.append(Section("losses", "Loss terms", tuple(_term_fact(term) for term in report.losses)))
    return tuple(sections)


def _names(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:_MOST_OUTPUTS]) or "none"


def _term_fact(term: LossTerm) -> Fact:
    parts = [number(term.value) if term.value is not None else "not finite"]
    if term.grad_norm is not None:
        parts.append(f"gradient {number(term.grad_norm)}")
    if term.cosine is not None:
        parts.append(f"cosine to the other terms {number(term.cosine)}")
    if term.reason is not None:
        parts.append(printable(term.reason))
    return Fact(printable(term.name), ", ".join(parts))


def _trace_facts(decay: TimeDecay) -> list[Fact]:
    losses = [point.loss for point in decay.trace]
    if len(losses) < 2:
        return []
    first, last = (number(loss) if loss is not None else "not finite" for loss in (losses[0], losses[-1]))
    return [Fact("loss", f"{first} → {last} in {counted(decay.trace[-1].step - decay.trace[0].step, 'step')}")]


def _facts(section: BaseModel, labels: Mapping[str, str]) -> list[Fact]:
    """List the single numbers and words of a section; lists are in the JSON only."""
    facts = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        written = None if name in ("status", "reason") else _written(name, value)
        if written is not None:
            facts.append(Fact(labels.get(name, name.replace("_", " ")), written))
    return facts


def _written(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return percent(value) if name.endswith("_fraction") else number(value)
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, float) for part in value):
        low, high = value
        is_empty = low > high  # the smallest gradients need a larger scale than the largest ones allow
        return (
            f"none: at least {number(low)}, at most {number(high)}" if is_empty else f"{number(low)} … {number(high)}"
        )
    return None
