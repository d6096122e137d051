"""A report's sections as titles, sentences and facts: what every form shows, whatever it looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel

from gradinspect.contracts.report.report import Report, SelfCheck
from gradinspect.contracts.report.sections import TimeDecay
from gradinspect.contracts.sections import SECTION, SECTIONS
from gradinspect.report.words.figures import amount, duration, printable, size
from gradinspect.wording import counted, number, percent

TITLES = {record.name: record.title for record in SECTIONS}


class Fact(NamedTuple):
    """A label and what stands beside it."""

    label: str
    value: str


@dataclass(frozen=True)
class Section:
    """One measured section in words."""

    name: str
    title: str
    facts: tuple[Fact, ...]


def headline_facts(report: Report) -> tuple[Fact, ...]:
    """What belongs under the headline: sizes, the loss, the fall of the signal, where it ran."""
    summary, environment = report.summary, report.environment
    loss = number(summary.loss) if summary.loss is not None else "not finite"
    if summary.expected_initial_loss is not None:
        loss += f" (knowing nothing gives {number(summary.expected_initial_loss)})"
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
        facts.append(Fact("measured in", duration(environment.wall_seconds)))
    return tuple(facts)


def measured_sections(report: Report) -> tuple[Section, ...]:
    """Every section that has numbers, but for the learning-rate scales, which have a form of their own."""
    found = []
    for name, title in TITLES.items():
        section = getattr(report, name)
        if section is None or section.status != "measured" or name == "lr_scales":
            continue
        facts = _facts(section, SECTION[name].labels)
        if isinstance(section, TimeDecay):
            facts = [*_trace_facts(section), *facts]
        if facts:
            found.append(Section(name, title, tuple(facts)))
    return tuple(found)


def undetermined_sections(report: Report) -> tuple[Fact, ...]:
    """Sections that were asked for and have no numbers, with the reason."""
    return tuple(
        Fact(title, printable(section.reason or "no reason was given"))
        for name, title in TITLES.items()
        if (section := getattr(report, name)) is not None and section.status == "undetermined"
    )


def environment_facts(report: Report) -> tuple[Fact, ...]:
    """Where and how the numbers were made."""
    found = report.environment
    data = "drawn from the seed" if found.synthetic_data else "given"
    if found.data_digest is not None:
        data += f", {printable(found.data_digest)[:19]}…"
    facts = [
        Fact("gradinspect", printable(found.gradinspect_version)),
        Fact("torch", printable(found.torch_version)),
        Fact("device", printable(found.device)),
        Fact("dtype", printable(found.dtype)),
        Fact("threads", str(found.threads)),
        Fact("seed", str(found.seed)),
        Fact("data", data),
        Fact("confinement", printable(found.confinement)),
    ]
    if found.wall_seconds is not None:
        cpu = f", {duration(found.cpu_seconds)} of CPU" if found.cpu_seconds is not None else ""
        facts.append(Fact("time", duration(found.wall_seconds) + cpu))
    if found.peak_memory_bytes is not None:
        facts.append(Fact("peak memory", size(found.peak_memory_bytes)))
    return tuple(facts)


def self_check_words(check: SelfCheck) -> str:
    """One self-check in a line: balance identity passed (1.2e-8, allowed 1e-6)."""
    words = f"{printable(check.name).replace('_', ' ')} {check.status.replace('_', ' ')}"
    if check.value is not None:
        allowed = f", allowed {number(check.tolerance)}" if check.tolerance is not None else ""
        words += f" ({number(check.value)}{allowed})"
    return f"{words}: {printable(check.detail)}" if check.detail and check.status != "passed" else words


def _trace_facts(decay: TimeDecay) -> list[Fact]:
    losses = [point.loss for point in decay.trace]
    if len(losses) < 2:
        return []
    first, last = (number(loss) if loss is not None else "not finite" for loss in (losses[0], losses[-1]))
    return [Fact("loss", f"{first} → {last} in {counted(decay.trace[-1].step - decay.trace[0].step, 'step')}")]


def _facts(section: BaseModel, labels: Mapping[str, str]) -> list[Fact]:
    """The single numbers and words of a section; its lists have their own place in the JSON."""
    facts = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name in ("status", "reason") or (written := _written(name, value)) is None:
            continue
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
        return f"{number(value[0])} … {number(value[1])}"
    return None
