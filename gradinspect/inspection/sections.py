"""Which sections a request asks for, how much time each may take, and how one is run.

A section that fails for a reason outside our control is `undetermined` with that reason, and the rest of the report
remains: memory ran out, an operator lacks the derivative, the budget was too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.sections import section_document
from gradinspect.contracts.request.request import InspectionSettings, TrialRequest
from gradinspect.contracts.sections import SECTIONS, Computation, SectionRecord
from gradinspect.engine.first_order.context import Section, SectionInput, SectionResult
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.model_errors import is_models, read_error

MOST_OF_THE_REST = 0.25  # chosen: without it two passes of a slow model had no room in a 28th of its job's time


@dataclass(frozen=True)
class PlannedSection:
    """One requested section and the way to compute it."""

    record: SectionRecord
    computation: Computation
    largest_share: float

    def function(self) -> Section:
        """Import the function that computes it."""
        module = import_module(f"gradinspect.{self.computation.module}")
        function: Section = getattr(module, self.computation.function)
        return function


def planned_sections(settings: InspectionSettings) -> list[PlannedSection]:
    """Return the requested sections in the order in which they are computed: the cheapest first, scales last."""
    planned = [
        PlannedSection(record, record.computation, _largest_share(record.computation, record.name, settings))
        for record in SECTIONS
        if record.computation is not None and settings.asks_for(record)
    ]
    return sorted(planned, key=lambda section: section.computation.usual_passes or math.inf)


def share_of(section: PlannedSection, later: Sequence[PlannedSection], pass_seconds: float, left: float) -> float:
    """Return the share in [0, 1] of the remaining seconds that a section may take.

    Args:
        section: the section to be run now.
        later: the section itself and all that come after it.
        pass_seconds: wall time of the first pass.
        left: remaining seconds, not positive when none are left.
    """
    by_weight = section.computation.weight / sum(one.computation.weight for one in later)
    usual = (section.computation.usual_passes or 0.0) * pass_seconds / left if left > 0 else 0.0
    return min(max(by_weight, min(usual, MOST_OF_THE_REST)), section.largest_share)


def run_section(section: PlannedSection, s: SectionInput) -> SectionResult:
    """Compute one section; a failure that the model causes becomes the reason of an undetermined section."""
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
    except Exception as error:
        if not is_models(error):
            raise
        reason = f"the model raised {read_error(error)}"
    return SectionResult(section_document(section.record.name)(status="undetermined", reason=reason))


def _largest_share(computation: Computation, name: str, settings: InspectionSettings) -> float:
    has_own_seconds = name == "trial" and isinstance(settings.trial, TrialRequest)
    return 1.0 if has_own_seconds else computation.largest_share


def _first_sentence(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:500]
