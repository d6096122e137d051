"""Run one job: bytes and settings in, measurements out. What a confined child calls, and the CLI's local mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import FileSource, SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.messages import Job
from gradinspect.engine.first_order.context import Budget
from gradinspect.engine.network.autocast import weight_dtype
from gradinspect.engine.network.batch import make_batch
from gradinspect.engine.network.build import build, load_weights
from gradinspect.engine.network.load import Allows, load_model, load_tensors
from gradinspect.inspection.measure import Progress, Subject, measure
from gradinspect.inspection.memory_estimate import batch_size, require_memory
from gradinspect.probes.remedies.remedy_check import Suggest


def run_job(
    job: Job,
    *,
    model_bytes: bytes | None,
    weights_bytes: bytes | None,
    data_bytes: bytes | None,
    confinement: str = "none",
    suggest: Suggest | None = None,
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
        suggest: remedies to try on a fresh copy of a spec, from what was measured.
        allows: which kinds of nodes an uploaded model may run; left out, all.
        progress: told stage names and the fraction done, from 0 to 1.

    Raises:
        InspectionError: a named reason, for everything that the caller can change.
    """
    budget = Budget(computing_seconds(job.limits.wall_seconds))
    torch.set_num_threads(job.limits.threads)
    progress("load", 0.02)
    device = choose_device(job.settings)
    subjects = (
        _spec_subjects(job.source.spec, job, weights_bytes, data_bytes, device)
        if isinstance(job.source, SpecSource)
        else _file_subjects(job.source, job, model_bytes or b"", data_bytes, device, allows)
    )
    return measure(
        subjects, job.settings, device=device, confinement=confinement, budget=budget, suggest=suggest,
        progress=progress,
    )  # fmt: skip


def computing_seconds(wall_seconds: float) -> float:
    """What of a job's wall time may be computed with: a tenth, at most 5 s, is kept for the report's own way out."""
    return wall_seconds - min(_MARGIN_SHARE * wall_seconds, _LARGEST_MARGIN)


# Chosen: the largest report (50,000 rows of each kind) is written, sent and validated in under 5 s.
_MARGIN_SHARE, _LARGEST_MARGIN = 0.1, 5.0


def choose_device(settings: InspectionSettings) -> torch.device:
    """The device a request means.

    Raises:
        InspectionError: `data_mismatch` when CUDA is asked for and there is none.
    """
    if settings.device == "cpu":
        return torch.device("cpu")
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise InspectionError(
            "data_mismatch", "device cuda was asked for, but this worker has no CUDA device; use auto or cpu"
        )
    return torch.device("cuda" if available else "cpu")


def _spec_subjects(
    spec: ModelSpec, job: Job, weights: bytes | None, data: bytes | None, device: torch.device
) -> Iterator[Subject]:
    settings = job.settings
    dtype = weight_dtype(settings.precision.compute) or torch.float32
    tensors = load_tensors(data) if data is not None else None
    samples = batch_size(settings.data, tensors)
    require_memory(spec, samples=samples, dtype=dtype, limit_bytes=job.limits.memory_bytes)
    for index in range(settings.seeds):
        yield _spec_subject(spec, settings, (settings.seed + index) % 2**63, weights, tensors, dtype, device)


def _spec_subject(
    spec: ModelSpec,
    settings: InspectionSettings,
    seed: int,
    weights: bytes | None,
    tensors: dict[str, torch.Tensor] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Subject:
    """One seed's model and batch; a function of its own, so that nothing holds the model when the next one is built."""
    model = build(spec, seed=seed, dtype=dtype, device=device)
    if weights is not None:
        load_weights(model, weights)
    # The data stays the same: what varies between the seeds of a spec is its initialisation.
    batch = make_batch(
        settings.data, tensors, sample_input=spec.input, vocabulary=spec.input.high, loss=settings.loss,
        dtype=dtype, device=device, seed=settings.seed,
    )  # fmt: skip
    return Subject(model, batch, seed, None if weights is not None else _builder(spec, dtype, device))


def _builder(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Callable[[int], nn.Module]:
    return lambda seed: build(spec, seed=seed, dtype=dtype, device=device)


def _file_subjects(
    source: FileSource, job: Job, file: bytes, data: bytes | None, device: torch.device, allows: Allows | None
) -> Iterator[Subject]:
    settings = job.settings
    model: nn.Module = load_model(source.kind, file, allows).to(device)
    dtype = weight_dtype(settings.precision.compute)
    if dtype is not None:
        model = model.to(dtype)
    tensors = load_tensors(data) if data is not None else None
    read = isinstance(settings.data, ArtifactData)
    for index in range(settings.seeds):
        # What varies between the seeds of an upload is the batch: its own part of the data, or a fresh draw.
        seed = (settings.seed + index) % 2**63
        batch = make_batch(
            settings.data, tensors, sample_input=_declared(source.input, model), vocabulary=None,
            loss=settings.loss, dtype=dtype, device=device, seed=seed,
            part=(index, settings.seeds) if read else (0, 1),
        )  # fmt: skip
        yield Subject(model, batch, seed)


def _declared(declared: SampleInput | None, model: nn.Module) -> SampleInput | None:
    """A declared float32 input follows the model's own dtype, which is what a half-precision file expects."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if declared is None or first is None or declared.dtype != "float32" or first.dtype == torch.float32:
        return declared
    return declared.model_copy(update={"dtype": str(first.dtype).removeprefix("torch.")})
