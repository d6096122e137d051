"""The sections that a request can ask for beyond the first pass: which function computes each, and what it is worth.

A section that fails in a way its caller cannot help is `undetermined` with the reason, and the rest of the report
stands: memory that ran out, an operator without the derivative that it needs, a budget that was too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Curvature, Jacobian, LrScales, Noise, TimeDecay
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Section, SectionInput, SectionResult
from gradinspect.engine.first_order.memory import out_of_memory

SectionDocument = type[Noise] | type[Curvature] | type[Jacobian] | type[TimeDecay] | type[LrScales]


@dataclass(frozen=True)
class PlannedSection:
    """One section of the report.

    Attributes:
        stage: its name in progress and in `environment.stages`; what a request calls it.
        field: its place in the report.
        kind: its document, for a section that could not be computed.
        home: module and function that compute it; imported when it is asked for.
        weight: its share of the time that is left, among the sections that were asked for. Chosen after the usual
            number of passes of each: two for noise, some forty for curvature, a probe's hundreds for scales.
        passes: what its usual results take, in times of the first pass. A section may have so much though its share is
            smaller, up to `MOST_OF_THE_REST`; none for scales, whose probes have a budget of their own.
    """

    stage: str
    field: Literal["noise", "curvature", "jacobian", "time_decay", "lr_scales"]
    kind: SectionDocument
    home: tuple[str, str]
    weight: float
    passes: float = 0.0

    def function(self) -> Section:
        """The function that computes it."""
        found: Section = getattr(import_module(self.home[0]), self.home[1])
        return found


MOST_OF_THE_REST = 0.25  # chosen: without it two passes of a slow model had no room in a 28th of its job's time

_TABLE: tuple[PlannedSection, ...] = (
    PlannedSection("noise", "noise", Noise, ("gradinspect.engine.per_sample.noise", "noise_section"), 1.0, 3.0),
    PlannedSection(
        "jacobian", "jacobian", Jacobian, ("gradinspect.engine.curvature.jacobian", "jacobian_section"), 1.0, 20.0
    ),
    PlannedSection(
        "curvature", "curvature", Curvature, ("gradinspect.engine.curvature.curvature", "curvature_section"), 4.0, 40.0
    ),
    PlannedSection(
        "training_trace",
        "time_decay",
        TimeDecay,
        ("gradinspect.inspection.training_trace", "training_trace_section"),
        2.0,
        45.0,
    ),
    PlannedSection("lr_scales", "lr_scales", LrScales, ("gradinspect.probes.lr_scales", "suggest_scales"), 20.0),
)


def planned_sections(settings: InspectionSettings) -> list[PlannedSection]:
    """What was asked for, in the order in which it is computed."""
    asked: set[str] = set(settings.diagnostics)
    if settings.lr_scales:
        asked.add("lr_scales")
    return [section for section in _TABLE if section.stage in asked]


def share_of(section: PlannedSection, later: Sequence[PlannedSection], pass_seconds: float, left: float) -> float:
    """The share of the seconds that are left which a section may take.

    Args:
        later: the section itself and all that come after it.
    """
    by_weight = section.weight / sum(one.weight for one in later)
    wanted = section.passes * pass_seconds / left if left > 0 else 0.0
    return max(by_weight, min(wanted, MOST_OF_THE_REST))


def run_section(section: PlannedSection, s: SectionInput) -> SectionResult:
    """Compute one section; what the model causes to fail becomes the reason of an undetermined one."""
    try:
        return section.function()(s)
    except InspectionError as error:
        reason = error.detail
    except (RuntimeError, MemoryError) as error:  # NotImplementedError of a missing kernel is a RuntimeError
        reason = (
            "memory: it ran out; a smaller batch leaves more room"
            if out_of_memory(error)
            else f"torch refused: {_first_sentence(str(error))}"
        )
        if s.device.type == "cuda":
            torch.cuda.empty_cache()
    return SectionResult(section.kind(status="undetermined", reason=reason))


def _first_sentence(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:500]
