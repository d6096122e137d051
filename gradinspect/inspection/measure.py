"""From models and their batches to measurements: the order of passes and sections, their budgets and progress."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Environment, Measurements
from gradinspect.contracts.report.trial import SWITCHED_OFF, Trial
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput, SectionResult
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.first_order.memory import memory_limit
from gradinspect.engine.locate.unhealthy import locate_cut, locate_faults
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.fixed_loss import CustomLoss, FixedLoss
from gradinspect.engine.network.reproducible import forget_compiled_plans, left_as_found, ordinary_graphs
from gradinspect.inspection.memory_left import MemoryLeft
from gradinspect.inspection.peak_memory import PeakMemory
from gradinspect.inspection.prescribing import prescribed
from gradinspect.inspection.results import FirstPass, Results
from gradinspect.inspection.sections import planned_sections, run_section, share_of
from gradinspect.inspection.stages import Progress, Stages
from gradinspect.rules.faults import no_gradient_in_words
from gradinspect.version import __version__

__all__ = ["CustomLoss", "Progress", "Subject", "measure"]

LOADED = 0.02  # fraction of the job that is done once the model is loaded; also reported by job.run_job
PASS_STAGES = (("forward", 0.3), ("backward", 0.5), ("statistics", 0.2))
PASS_MARGIN = 2.0  # chosen: a pass and its rows may take twice what the first pass took


def measure(
    subjects: Iterable[Subject],
    settings: InspectionSettings,
    *,
    device: torch.device,
    confinement: str = "none",
    custom_loss: CustomLoss | None = None,
    budget: Budget | None = None,
    memory_bytes: int | None = None,
    progress: Progress = lambda _stage, _fraction: None,
) -> Measurements:
    """Run one pass per subject and the sections on the first of them, and combine the numbers.

    Args:
        subjects: one per seed; made one after another, so that only one model is alive.
        settings: what is requested.
        device: where the models and batches are.
        confinement: the level under which this process runs, for the environment.
        custom_loss: used in place of the settings' named loss (notebooks).
        budget: time for everything; what does not fit is left undetermined. None: unlimited.
        memory_bytes: what the inspection may take in addition to what the process holds; None: unlimited.
        progress: receives the stage and the fraction done, which never decreases.

    Raises:
        InspectionError: with the code and the reason when a model cannot be measured.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    memory = PeakMemory(device)
    stages = Stages(progress, _plan(settings), start=LOADED)
    run = _Run(settings, device, custom_loss, budget or Budget(None), stages, MemoryLeft(device, memory_bytes))
    with ordinary_graphs():
        for subject in subjects:
            forget_compiled_plans(subject.model)
            run.add(subject)
            del subject  # before the next one is made, and before the report is
    if run.results.first is None:
        raise InspectionError("internal", "no pass was run")
    run.stages.enter("report")
    stages_run = {name: round(seconds, 6) for name, seconds in run.stages.seconds.items()}
    environment = _environment(settings, run.results, device).model_copy(
        update={"confinement": confinement, "stages": stages_run}
    )
    measured = run.results.measurements(environment)
    spent = {
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "peak_memory_bytes": memory.read(),
    }
    return measured.model_copy(update={"environment": environment.model_copy(update=spent)})


@dataclass
class _Run:
    """The passes and sections of one inspection.

    Attributes:
        results: what they measured.
    """

    settings: InspectionSettings
    device: torch.device
    custom_loss: CustomLoss | None
    budget: Budget
    stages: Stages
    memory: MemoryLeft

    def __post_init__(self) -> None:
        self.results = Results(self.settings)

    def add(self, subject: Subject) -> None:
        """Run one subject's pass, and after the first one the sections; only rows remain of it when this returns."""
        s = self._pass(subject)
        self.stages.enter("statistics")
        is_first = self.results.first is None
        if is_first:
            self.results.first = FirstPass.of(s, has_named_loss=self.custom_loss is None)
            self.results.faults = locate_faults(s)
        self.results.add_pass(s.reading, s.names, s.parameters, s.opened)
        self.stages.stop()
        if is_first:
            with left_as_found(s.model, self.settings.mode):
                self._run_sections(s)
                self._prescribe(s)

    def _pass(self, subject: Subject) -> SectionInput:
        try:
            return first_pass(
                subject,
                self.settings,
                device=self.device,
                custom_loss=self.custom_loss,
                budget=self.budget,
                stage=self.stages.enter,
            )
        except InspectionError as error:
            raise self._with_operation(error, subject) from error.__cause__
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside `except` the frames of the error, which refer to the batch's activations, are freed.
        raise memory_limit(subject, self.settings.mode)

    def _with_operation(self, error: InspectionError, subject: Subject) -> InspectionError:
        """Name the operation that cuts all parameters from the loss, where that is what went wrong."""
        if error.code != "no_gradient":
            return error
        loss_of = FixedLoss(subject.batch, self.settings, self.custom_loss, device=self.device, seed=subject.seed)
        cut = locate_cut(subject, self.settings, loss_of, self.device)
        return error if cut is None else InspectionError("no_gradient", no_gradient_in_words(cut))

    def _run_sections(self, s: SectionInput) -> None:
        planned = planned_sections(self.settings)
        reserve = self._reserve(s)
        for index, section in enumerate(planned):
            self.stages.enter(section.record.stage)
            share = share_of(section, planned[index:], s.pass_seconds, s.budget.seconds_left - reserve)
            budget = s.budget.part(share, reserve=reserve)
            given = replace(s, budget=budget, progress=self.stages.within, memory_left_bytes=self.memory.left_bytes())
            result = run_section(section, given)
            self.results.add_section(section.record.name, result)
        if self.settings.trial == "off":
            self.results.add_section("trial", SectionResult(Trial(status="undetermined", reason=SWITCHED_OFF)))
        self.stages.stop()

    def _prescribe(self, s: SectionInput) -> None:
        """Add the prescription, from the rows of this pass and the sections."""
        if self.settings.trial == "off":
            return
        self.stages.enter("prescription")
        budget = s.budget.part(1.0, reserve=self._reserve(s))
        given = replace(s, budget=budget, memory_left_bytes=self.memory.left_bytes())
        measured = self.results.measurements(_environment(self.settings, self.results, self.device))
        self.results.prescription = prescribed(given, measured, self.stages.within)
        self.stages.stop()

    def _reserve(self, s: SectionInput) -> float:
        """Return the seconds that the passes over the other seeds need, which come after everything else."""
        return (self.settings.seeds - 1) * PASS_MARGIN * s.pass_seconds


def _environment(settings: InspectionSettings, results: Results, device: torch.device) -> Environment:
    """Return the environment without what only the end of the inspection knows."""
    first = results.first
    assert first is not None
    return Environment(
        gradinspect_version=__version__,
        torch_version=torch.__version__,
        device=device_name(device),
        dtype=first.dtype,
        threads=torch.get_num_threads(),
        seed=settings.seed,
        data_digest=first.digest,
        synthetic_data=first.is_synthetic,
        mode=settings.mode,
        sampled_layers=first.sampled_layers,
    )


def _plan(settings: InspectionSettings) -> list[tuple[str, float]]:
    sections = [(section.record.stage, section.computation.weight) for section in planned_sections(settings)]
    sections += [("prescription", 4.0)] if settings.trial != "off" else []
    return [*PASS_STAGES, *sections, *(PASS_STAGES * (settings.seeds - 1)), ("report", 0.1)]


def device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})"[:256] if device.type == "cuda" else device.type
