"""One job: bytes and settings in, measurements out. Called by a confined child and by the CLI's local mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from io import BytesIO

import torch
from torch import nn

from gradinspect.contracts.exported.program import Program
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import ExportedSource, FileSource, SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.messages import Job
from gradinspect.engine.first_order.context import Budget
from gradinspect.engine.network.autocast import weight_dtype
from gradinspect.engine.network.batch import Batch, make_batch
from gradinspect.engine.network.exported.model import ExportedModel
from gradinspect.engine.network.exported.samples import draw_inputs
from gradinspect.engine.network.load import Allows, load_model, load_tensors
from gradinspect.inspection.measure import LOADED, Progress, Subject, measure
from gradinspect.inspection.memory_estimate import batch_size, require_memory
from gradinspect.inspection.subjects import module_subjects, spec_dtype, spec_subjects
from gradinspect.intake.exported import read_program

# Chosen: the largest report (50,000 rows of each kind) is written, sent and validated in under 5 s.
MARGIN_SHARE, LARGEST_MARGIN = 0.1, 5.0


def run_job(
    job: Job,
    *,
    model_bytes: bytes | None,
    weights_bytes: bytes | None,
    data_bytes: bytes | None,
    confinement: str = "none",
    allows: Allows | None = None,
    progress: Progress = lambda _stage, _fraction: None,
) -> Measurements:
    """Load or build the model, make its batches, and measure.

    Args:
        job: source, settings, limits.
        model_bytes: the uploaded file, where the source is one.
        weights_bytes: safetensors with the spec's weights, where the source names them.
        data_bytes: safetensors with the batch, where the settings name it.
        confinement: the level under which this process runs.
        allows: which kinds of nodes an uploaded model may run; None: all.
        progress: receives stage names and the fraction done, in [0, 1].

    Raises:
        InspectionError: with a code, for everything that the caller can change.
    """
    budget = Budget(computing_seconds(job.limits.wall_seconds))
    torch.set_num_threads(job.limits.threads)
    progress("load", LOADED)
    device, file = choose_device(job.settings), model_bytes or b""
    if isinstance(job.source, SpecSource):
        subjects = _spec_subjects(job.source.spec, job, weights_bytes, data_bytes, device)
    elif isinstance(job.source, ExportedSource):
        program = _read_program(file)
        job = job.model_copy(update={"settings": in_exported_mode(job.settings, program)})
        subjects = _exported_subjects(program, job, file, data_bytes, device)
    else:
        subjects = _file_subjects(job.source, job, file, data_bytes, device, allows)
    return measure(
        subjects, job.settings, device=device, confinement=confinement, budget=budget,
        memory_bytes=job.limits.memory_bytes, progress=progress,
    )  # fmt: skip


def computing_seconds(wall_seconds: float) -> float:
    """Return the part of a job's wall time for computing; a tenth, at most 5 s, is reserved to send the report."""
    return wall_seconds - min(MARGIN_SHARE * wall_seconds, LARGEST_MARGIN)


def choose_device(settings: InspectionSettings) -> torch.device:
    """Return the device that a request means.

    Raises:
        InspectionError: `data_mismatch` when CUDA is requested and not available.
    """
    if settings.device == "cpu":
        return torch.device("cpu")
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise InspectionError(
            "data_mismatch", "device cuda was requested, but this worker has no CUDA device; use auto or cpu"
        )
    return torch.device("cuda" if available else "cpu")


def _spec_subjects(
    spec: ModelSpec, job: Job, weights: bytes | None, data: bytes | None, device: torch.device
) -> Iterator[Subject]:
    settings, dtype = job.settings, spec_dtype(job.settings)
    tensors = load_tensors(data) if data is not None else None
    samples = batch_size(settings.data, tensors)
    require_memory(spec, samples=samples, dtype=dtype, limit_bytes=job.limits.memory_bytes)

    def batch() -> Batch:
        return make_batch(
            settings.data, tensors, sample_input=spec.input, vocabulary=spec.input.high, loss=settings.loss,
            dtype=dtype, device=device, seed=settings.seed,
        )  # fmt: skip

    yield from spec_subjects(spec, settings, device=device, batch=batch, weights=weights)


def _file_subjects(
    source: FileSource, job: Job, file: bytes, data: bytes | None, device: torch.device, allows: Allows | None
) -> Iterator[Subject]:
    settings = job.settings
    model: nn.Module = load_model(source.kind, file, allows).to(device)
    dtype = weight_dtype(settings.precision.compute)
    if dtype is not None:
        model = model.to(dtype)
    tensors = load_tensors(data) if data is not None else None
    is_read = isinstance(settings.data, ArtifactData)

    def batch(index: int, seed: int) -> Batch:
        return make_batch(
            settings.data, tensors, sample_input=_in_models_dtype(source.input, model), vocabulary=None,
            loss=settings.loss, dtype=dtype, device=device, seed=seed,
            part=(index, settings.seeds) if is_read else (0, 1),
        )  # fmt: skip

    yield from module_subjects(model, settings, batch)


def _read_program(file: bytes) -> Program:
    try:
        return read_program(BytesIO(file))
    except ProblemError as problem:
        raise InspectionError(problem.code, problem.detail) from None


def in_exported_mode(settings: InspectionSettings, program: Program) -> InspectionSettings:
    """Return the settings with the mode in which a program was exported.

    Raises:
        InspectionError: `invalid_model`, when the other mode was asked for.
    """
    mode = program.mode
    if mode is None:
        return settings
    if "mode" in settings.model_fields_set and settings.mode != mode:
        other = "eval" if mode == "train" else "train"
        raise InspectionError(
            "invalid_model",
            f"the program was exported in {mode} mode, and dropout and running statistics are part of it; ask for mode "
            f"{mode}, or call model.{other}() before you export the model",
        )
    return settings.model_copy(update={"mode": mode})


def _exported_subjects(
    program: Program, job: Job, file: bytes, data: bytes | None, device: torch.device
) -> Iterator[Subject]:
    settings = job.settings
    model = ExportedModel(program, file).to(device)
    dtype = weight_dtype(settings.precision.compute)
    if dtype is not None:
        model = model.to(dtype)
    tensors = load_tensors(data) if data is not None else None
    is_read = isinstance(settings.data, ArtifactData)

    def batch(index: int, seed: int) -> Batch:
        return make_batch(
            settings.data, tensors, sample_input=None, vocabulary=None, loss=settings.loss, dtype=dtype, device=device,
            seed=seed, part=(index, settings.seeds) if is_read else (0, 1), draw=partial(draw_inputs, program),
        )  # fmt: skip

    yield from module_subjects(model, settings, batch)


def _in_models_dtype(declared: SampleInput | None, model: nn.Module) -> SampleInput | None:
    """Give a declared float32 input the model's own dtype, which a half-precision file expects."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if declared is None or first is None or declared.dtype != "float32" or first.dtype == torch.float32:
        return declared
    return declared.model_copy(update={"dtype": str(first.dtype).removeprefix("torch.")})
