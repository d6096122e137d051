"""From a model and its batches to measurements: the engine's front door for jobs and notebooks alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report import (
    Curvature,
    Environment,
    Jacobian,
    LayerMeasurement,
    LrScales,
    MeasuredSummary,
    Measurements,
    Noise,
    ParameterMeasurement,
    SelfCheck,
    TimeDecay,
)
from gradinspect.contracts.request import InspectionSettings
from gradinspect.engine.averages import average_layers, average_parameters
from gradinspect.engine.batch import Batch
from gradinspect.engine.decay import depth_decay
from gradinspect.engine.gradients import PassReading, run_pass
from gradinspect.engine.losses import compute_loss, expected_initial_loss
from gradinspect.engine.naming import name_calls
from gradinspect.engine.parameters import ParameterIndex
from gradinspect.engine.precision import precision_section
from gradinspect.engine.reproducible import generator, left_as_found, ordinary_graphs, seeded
from gradinspect.engine.rows import finite, layer_rows, parameter_rows
from gradinspect.engine.self_checks import balance_identity
from gradinspect.engine.statistics import Distribution
from gradinspect.engine.updates import first_step_norm
from gradinspect.version import __version__

Progress = Callable[[str, float], None]
CustomLoss = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
NOT_COMPUTED = "this release does not compute this section yet"


@dataclass(frozen=True)
class Subject:
    """One pass to run: a model, the batch it runs on, and the seed of what is random inside it (dropout)."""

    model: nn.Module
    batch: Batch
    seed: int


@dataclass
class _Collected:
    layers: list[list[LayerMeasurement]] = field(default_factory=list)
    parameters: list[list[ParameterMeasurement]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    expected_loss: float | None = None
    checks: list[SelfCheck] = field(default_factory=list)
    spreads: list[tuple[Distribution, int, float]] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    dtype: str = ""
    digest: str = ""
    synthetic: bool = False


def measure(
    subjects: Iterable[Subject],
    settings: InspectionSettings,
    *,
    device: torch.device,
    confinement: str = "none",
    custom_loss: CustomLoss | None = None,
    progress: Progress = lambda _stage, _fraction: None,
) -> Measurements:
    """Run one pass per subject and put the numbers together.

    Args:
        subjects: one per seed; made one after another, so that only one model is alive.
        settings: what is asked for.
        device: where the models and batches are.
        confinement: the level under which this process runs, for the environment stamp.
        custom_loss: used in place of the settings' named loss (notebooks).
        progress: told the stage and the fraction done.

    Raises:
        InspectionError: with the code and the reason when a model cannot be measured.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    found = _Collected()
    with ordinary_graphs():
        for index, subject in enumerate(subjects):
            _run(subject, index, settings, found, device, custom_loss, progress)
    if not found.layers:
        raise InspectionError("internal", "no pass was run")
    progress("report", 0.95)
    parameters = average_parameters(found.parameters)
    squares = [row.grad_norm**2 for row in parameters if row.grad_norm is not None]
    finite_gradients = not any(row.nan_count or row.inf_count for row in parameters)
    layers = average_layers(found.layers)
    return Measurements(
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
            stages={name: round(seconds, 6) for name, seconds in found.stages.items()},
        ),
        summary=MeasuredSummary(
            loss=finite(math.fsum(found.losses) / len(found.losses)),
            expected_initial_loss=found.expected_loss,
            parameters=sum(row.numel for row in parameters),
            layers=len(layers),
            total_grad_norm=finite(math.sqrt(math.fsum(squares))) if finite_gradients else None,
        ),
        depth_decay=depth_decay(found.layers) if "signals" in settings.diagnostics else None,
        layers=layers,
        parameters=parameters,
        precision=precision_section(found.spreads, settings.precision, found.dtype),
        self_checks=tuple(found.checks),
    ).model_copy(update=_sections_not_computed(settings))


def _run(
    subject: Subject,
    index: int,
    settings: InspectionSettings,
    found: _Collected,
    device: torch.device,
    custom_loss: CustomLoss | None,
    progress: Progress,
) -> None:
    model, batch = subject.model, subject.batch
    parameters = ParameterIndex(model)
    target: list[torch.Tensor | None] = []

    def loss_function(output: torch.Tensor) -> torch.Tensor:
        target.append(batch.target_for(output))
        if custom_loss is not None:
            return custom_loss(output, target[0])
        return compute_loss(settings.loss, output, target[0], generator(subject.seed, "cotangent"))

    clock = _Clock(found.stages, progress, index, settings.seeds)
    update_norm = first_step_norm(settings.optimizer) if settings.optimizer is not None else None
    with left_as_found(model, settings.mode), seeded(subject.seed, device):
        reading = run_pass(model, parameters, batch.inputs, loss_function, update_norm=update_norm, stage=clock.enter)
    clock.enter("statistics")
    names = name_calls(reading.calls, parameters)
    found.layers.append(layer_rows(reading, names, parameters))
    found.parameters.append(parameter_rows(reading, names, parameters, settings.precision.loss_scale))
    found.losses.append(reading.loss)
    dtype = _dtype(parameters, reading)
    if index == 0:
        found.dtype = str(dtype).removeprefix("torch.")
        found.digest, found.synthetic = batch.digest, batch.synthetic
        if custom_loss is None:
            found.expected_loss = expected_initial_loss(settings.loss, reading.output_shape, target[0])
        found.checks.append(balance_identity(reading, dtype))
        found.spreads = [
            (gradient.distribution, gradient.moments.numel, gradient.moments.abs_max)
            for gradient in reading.gradients.values()
            if gradient.distribution is not None
        ]
    clock.stop()


class _Clock:
    """Adds up the seconds of each stage and reports the stages as they begin."""

    _FRACTIONS = {"forward": 0.1, "backward": 0.4, "statistics": 0.9}

    def __init__(self, stages: dict[str, float], progress: Progress, index: int, count: int) -> None:
        self._stages, self._progress, self._index, self._count = stages, progress, index, max(count, index + 1)
        self._current: str | None = None
        self._since = 0.0

    def enter(self, name: str) -> None:
        self.stop()
        self._current, self._since = name, time.perf_counter()
        self._progress(name, (self._index + self._FRACTIONS.get(name, 0.5)) / self._count)

    def stop(self) -> None:
        if self._current is not None:
            spent = time.perf_counter() - self._since
            self._stages[self._current] = self._stages.get(self._current, 0.0) + spent
            self._current = None


def _dtype(parameters: ParameterIndex, reading: PassReading) -> torch.dtype:
    entries = [entry for entry in parameters if entry in reading.gradients]
    return entries[0].tensor.dtype if entries else torch.get_default_dtype()


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})"[:256] if device.type == "cuda" else device.type


def _sections_not_computed(settings: InspectionSettings) -> dict[str, object]:
    """Sections that were asked for and that this release cannot give: present, undetermined, with the reason."""
    wanted: dict[str, object] = {}
    kinds: dict[str, tuple[str, type]] = {
        "noise": ("noise", Noise),
        "curvature": ("curvature", Curvature),
        "jacobian": ("jacobian", Jacobian),
        "training_trace": ("time_decay", TimeDecay),
    }
    for diagnostic, (section, kind) in kinds.items():
        if diagnostic in settings.diagnostics:
            wanted[section] = kind(status="undetermined", reason=NOT_COMPUTED)
    if settings.lr_scales:
        wanted["lr_scales"] = LrScales(status="undetermined", reason=NOT_COMPUTED)
    return wanted
