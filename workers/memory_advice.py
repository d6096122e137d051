"""When memory does not suffice: how much was asked for, how much there is, and a batch that would fit."""

from __future__ import annotations

import re

import torch

from gradinspect.contracts.data import SyntheticData
from gradinspect.contracts.messages import Job
from gradinspect.contracts.shapes import describe_spec
from gradinspect.engine.batch import DEFAULT_SAMPLES

MIB = 2**20
PARAMETER_COPIES = 3  # the weights, a gradient each at worst, and one more while they are drawn and cast
ACTIVATION_COPIES = 2  # what is kept for backward, and as much again in flight
_ASKED = re.compile(r"allocate (\d+) bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: Python's, C++'s, or one of torch's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError | OSError) and (
        "allocate memory" in text or "not enough memory" in text or "std::bad_alloc" in text
    )


def explain_memory(job: Job, error: BaseException) -> str:
    """Say what was needed, what the limit is and, for a synthetic batch of a spec, how many samples would fit."""
    said = [f"the job needs more than its {job.limits.memory_bytes // MIB} MiB"]
    asked = _ASKED.search(str(error))
    if asked is not None:
        said.append(f"it asked for {max(1, int(asked[1]) // MIB)} MiB more at once")
    fits = fitting_samples(job)
    samples = batch_samples(job)
    if fits is not None and samples is not None and 0 < fits < samples:
        said.append(f"a batch of about {fits} samples would fit instead of {samples}")
    return "; ".join(said)


def batch_samples(job: Job) -> int | None:
    """How many samples the job's batch has; None when only the uploaded file knows."""
    data = job.settings.data
    if data is None:
        return DEFAULT_SAMPLES
    if isinstance(data, SyntheticData):
        return data.inputs[0].shape[0] if data.inputs is not None else data.samples or DEFAULT_SAMPLES
    return None


def fitting_samples(job: Job) -> int | None:
    """About how many samples fit into the limit; None for a file whose layers nobody has counted."""
    if job.spec is None:
        return None
    needed = describe_spec(job.spec)
    room = job.limits.memory_bytes - PARAMETER_COPIES * needed.parameter_bytes
    return max(0, room // (ACTIVATION_COPIES * max(1, needed.activation_bytes_per_sample)))
