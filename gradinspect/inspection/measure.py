"""From a model and its batches to measurements: the engine's front door for jobs and notebooks alike."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch

from gradinspect.contracts.document import Document
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Environment, MeasuredSummary, Measurements, SelfCheck
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.arrays.precision import precision_section
from gradinspect.engine.checks.self_checks import run_checks
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.first_pass import CustomLoss, Subject, first_pass
from gradinspect.engine.first_order.memory import memory_limit, out_of_memory
from gradinspect.engine.network.autocast import HALF
from gradinspect.engine.network.losses import expected_initial_loss
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs
from gradinspect.engine.rows.averages import average_layers, average_parameters
from gradinspect.engine.rows.depth_decay import depth_decay
from gradinspect.engine.rows.layer_rows import finite, layer_rows, parameter_rows
from gradinspect.engine.rows.seed_spread import seed_spread
from gradinspect.inspection.peak_memory import PeakMemory
from gradinspect.inspection.sections import planned_sections, run_section, share_of
from gradinspect.inspection.stages import Progress, Stages
from gradinspect.probes.remedies.remedy_check import Suggest, Trial, check_remedies
from gradinspect.version import __version__

__all__ = ["CustomLoss", "Progress", "Subject", "measure"]


@dataclass
class _Collected:
    layers: list[list[LayerMeasurement]] = field(default_factory=list)
    parameters: list[list[ParameterMeasurement]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    expected_loss: float | None = None
    checks: list[SelfCheck] = field(default_factory=list)
    precision: PrecisionSection | None = None
    sections: dict[str, Document] = field(default_factory=dict)
    of_parameters: dict[str, dict[str, float | None]] = field(default_factory=dict)
    dtype: str = ""
    digest: str = ""
    sampled_layers: int = 0
    synthetic: bool = False
    trial: Trial | None = None


def measure(
    subjects: Iterable[Subject],
    settings: InspectionSettings,
    *,
    device: torch.device,
    confinement: str = "none",
    custom_loss: CustomLoss | None = None,
    budget: Budget | None = None,
    suggest: Suggest | None = None,
    progress: Progress = lambda _stage, _fraction: None,
) -> Measurements:
    """Run one pass per subject, the sections on the first of them, and put the numbers together.

    Args:
        subjects: one per seed; made one after another, so that only one model is alive.
        settings: what is asked for.
        device: where the models and batches are.
        confinement: the level under which this process runs, for the environment stamp.
        custom_loss: used in place of the settings' named loss (notebooks).
        budget: time for everything; what does not fit into it is left undetermined. None for as long as it takes.
        suggest: remedies to try on a fresh copy, from what was measured; None to try nothing.
        progress: told the stage and the fraction done, which never goes back.

    Raises:
        InspectionError: with the code and the reason when a model cannot be measured.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    found = _Collected()
    stages = Stages(progress, _plan(settings), start=_LOADED)
    memory = PeakMemory(device)
    with ordinary_graphs():
        for subject in subjects:
            _add_pass(subject, found, settings, device, custom_loss, budget or Budget(None), stages)
            del subject  # before the next one is made, and before the report is
    if not found.layers:
        raise InspectionError("internal", "no pass was run")
    stages.enter("report")
    parameters = _with_sections(average_parameters(found.parameters), found.of_parameters)
    squares = [row.grad_norm**2 for row in parameters if row.grad_norm is not None]
    gradients_not_finite = sum(row.nan_count + row.inf_count for row in parameters)
    layers = average_layers(found.layers, parameters)
    measured = Measurements(
        environment=Environment(
            gradinspect_version=__version__,
            torch_version=torch.__version__,
            device=_device_name(device),
            dtype=found.dtype,
            threads=torch.get_num_threads(),
            seed=settings.seed,
            data_digest=found.digest,
            synthetic_data=found.synthetic,
            confinement=confinement,
            wall_seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - started_cpu,
            peak_memory_bytes=memory.read(),
            sampled_layers=found.sampled_layers,
            stages={name: round(seconds, 6) for name, seconds in stages.seconds.items()},
        ),
        summary=MeasuredSummary(
            loss=finite(math.fsum(found.losses) / len(found.losses)),
            expected_initial_loss=found.expected_loss,
            parameters=sum(row.numel for row in parameters),
            layers=len(layers),
            total_grad_norm=finite(math.sqrt(math.fsum(squares))) if not gradients_not_finite else None,
            nonfinite_count=sum(not math.isfinite(loss) for loss in found.losses)
            + sum(row.nonfinite_count for row in layers)
            + gradients_not_finite,
        ),
        depth_decay=depth_decay(found.layers) if "signals" in settings.diagnostics else None,
        layers=layers,
        parameters=parameters,
        precision=found.precision,
        self_checks=tuple(found.checks),
        spread=seed_spread(found.layers),
    ).model_copy(update=found.sections)
    remedies = suggest(measured) if suggest is not None and found.trial is not None else ()
    if found.trial is None or not remedies:
        return measured
    return measured.model_copy(update={"remedy_checks": check_remedies(found.trial, remedies, budget or Budget(None))})


_LOADED = 0.02  # what loading the model was told to be worth
_PASS = (("forward", 0.3), ("backward", 0.5), ("statistics", 0.2))


def _plan(settings: InspectionSettings) -> list[tuple[str, float]]:
    sections = [(section.record.stage, section.computation.weight) for section in planned_sections(settings)]
    return [*_PASS, *sections, *(_PASS * (settings.seeds - 1)), ("report", 0.1)]


def _add_pass(
    subject: Subject,
    found: _Collected,
    settings: InspectionSettings,
    device: torch.device,
    custom_loss: CustomLoss | None,
    budget: Budget,
    stages: Stages,
) -> None:
    """Run one subject's pass, and on the first one the sections; what the rows do not keep of it ends with this."""
    s = _pass(subject, settings, device, custom_loss, budget, stages)
    is_first = not found.layers
    _collect(s, found, stages, is_first=is_first, named_loss=custom_loss is None)
    if is_first:
        with left_as_found(s.model, settings.mode):
            _run_sections(s, found, stages)
        found.trial = Trial.of(s, custom_loss)


def _pass(
    subject: Subject,
    settings: InspectionSettings,
    device: torch.device,
    custom_loss: CustomLoss | None,
    budget: Budget,
    stages: Stages,
) -> SectionInput:
    try:
        return first_pass(subject, settings, device=device, custom_loss=custom_loss, budget=budget, stage=stages.enter)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Here the error is gone, and with it the frames that held the batch's activations.
    raise memory_limit(subject, settings.mode)


def _collect(s: SectionInput, found: _Collected, stages: Stages, *, is_first: bool, named_loss: bool) -> None:
    stages.enter("statistics")
    reading, settings = s.reading, s.settings
    found.losses.append(reading.loss)
    if is_first:
        dtype = _dtype(s)
        found.dtype = str(dtype).removeprefix("torch.")
        found.sampled_layers = sum(call.sampled for call in reading.calls)
        found.digest, found.synthetic = s.batch.digest, s.batch.synthetic
        if named_loss:
            found.expected_loss = expected_initial_loss(settings.loss, reading.output_shape, s.target)
        found.checks.extend(run_checks(s, HALF.get(settings.precision.compute or "", dtype)))
        spreads = (
            (gradient.distribution, gradient.moments.numel, gradient.moments.abs_max)
            for gradient in reading.gradients.values()
            if gradient.distribution is not None
        )
        found.precision = precision_section(spreads, settings.precision, settings.precision.compute or found.dtype)
    parameters = parameter_rows(reading, s.names, s.parameters, settings.precision.loss_scale)
    found.parameters.append(parameters)
    found.layers.append(layer_rows(reading, s.names, s.parameters, parameters))
    stages.stop()


def _run_sections(s: SectionInput, found: _Collected, stages: Stages) -> None:
    planned = planned_sections(s.settings)
    # The passes over the other seeds come after the sections and are owed their time first.
    owed = (s.settings.seeds - 1) * _PASS_MARGIN * s.pass_seconds
    for place, section in enumerate(planned):
        stages.enter(section.record.stage)
        share = share_of(section, planned[place:], s.pass_seconds, s.budget.seconds_left - owed)
        result = run_section(section, replace(s, budget=s.budget.part(share, reserve=owed), progress=stages.within))
        found.sections[section.record.name] = result.section
        for name, fields in result.parameters.items():
            found.of_parameters.setdefault(name, {}).update(fields)
    stages.stop()


_PASS_MARGIN = 2.0  # chosen: a pass and its rows may take twice what the first pass took


def _with_sections(
    rows: tuple[ParameterMeasurement, ...], fields: Mapping[str, Mapping[str, float | None]]
) -> tuple[ParameterMeasurement, ...]:
    return tuple(
        row.model_copy(update={key: finite(value) for key, value in fields[row.name].items()})
        if row.name in fields
        else row
        for row in rows
    )


def _dtype(s: SectionInput) -> torch.dtype:
    entries = [entry for entry in s.parameters if entry in s.reading.gradients]
    return entries[0].tensor.dtype if entries else torch.get_default_dtype()


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})"[:256] if device.type == "cuda" else device.type
