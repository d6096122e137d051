"""The child: it reads one job, sends frames and exits. It holds no secret and imports nothing of the service.

Descriptors, as the fork server arranges them: 1 and 2 the log, 3 the frames, 4 the job, 5 to 7 the bytes of the model,
of its weights and of the batch, where the job has them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gradinspect.contracts.document import from_json
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.contracts.wire.messages import FailureFrame, Job, ProgressFrame, ResultFrame
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.inspection.job import run_job
from gradinspect.intake.operators import allows_node
from workers.child.sandbox import Level

FRAMES, JOB, MODEL, WEIGHTS, DATA = 3, 4, 5, 6, 7
FILES = {"model": MODEL, "weights": WEIGHTS, "data": DATA}
MIB = 2**20
PIPE_BYTES = 2**16  # written in one call
_ROWS = ("layers", "parameters")
MOST_DETAIL = 4096  # the limit of `FailureFrame.detail`
_FORBIDDEN = re.compile(rf": {re.escape(os.strerror(errno.EPERM))}( \({errno.EPERM}\))?$")  # as C and C++ write it


@dataclass(frozen=True)
class Inputs:
    """The job and its files as unread bytes, or the error why they do not fit into memory."""

    job: bytes
    files: dict[str, bytes]
    failure: MemoryError | None = None


def read_inputs(names: Sequence[str]) -> Inputs:
    """Read the job and its files and close them.

    Args:
        names: of the files that the job has.
    """
    job, files = _read(JOB), {}
    try:
        files = {name: _read(FILES[name]) for name in names}
    except MemoryError as error:
        return Inputs(job, {}, error)
    return Inputs(job, files)


def main(inputs: Inputs, *, confinement: Level) -> None:
    """Run the job and send its result or failure.

    Args:
        inputs: from `read_inputs`.
        confinement: level of this process, recorded in the measurements.
    """
    try:
        job = from_json(Job, inputs.job)
    except ProblemError as error:  # stored by a release with other contracts
        _send(_failure("internal", f"the stored request cannot be read any more: {error}"))
        return
    _send(_outcome(job, inputs, confinement))


def _outcome(job: Job, inputs: Inputs, confinement: Level) -> ResultFrame | FailureFrame:
    try:
        if inputs.failure is not None:
            raise inputs.failure
        return ResultFrame(
            measurements=run_job(
                job,
                model_bytes=inputs.files.get("model"),
                weights_bytes=inputs.files.get("weights"),
                data_bytes=inputs.files.get("data"),
                confinement=confinement,
                allows=allows_node,
                progress=lambda stage, fraction: _send(ProgressFrame(stage=stage, fraction=fraction)),
            )
        )
    except InspectionError as error:
        limit = (
            f"; the limit is {_limit(job)}" if error.code == "memory_limit" and "limit is" not in error.detail else ""
        )
        return _forbidden_act(error) or _failure(error.code, error.detail + limit)
    except Exception as error:  # noqa: BLE001  # the failure is named, and the log has the traceback
        if out_of_memory(error):
            return _failure("memory_limit", f"the job needs more than its limit of {_limit(job)}")
        traceback.print_exc()
        return _forbidden_act(error) or _failure("internal", f"{type(error).__name__}: {error}")


def _limit(job: Job) -> str:
    return f"{job.limits.memory_bytes // MIB} MiB"


def _forbidden_act(error: BaseException) -> FailureFrame | None:
    """Check whether the kernel refused a system call, and not the model's own words.

    An OSError carries the number that the kernel gave. C++ writes the kernel's text and number at the end of a line,
    and a script's own `raise` and `assert` give a torch.jit.Error, whatever they say.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.jit.Error):
            return None
        refused = isinstance(cause, OSError) and cause.errno == errno.EPERM
        line = next((line for line in str(cause).splitlines() if refused or _FORBIDDEN.search(line)), None)
        if line is not None and not isinstance(cause, InspectionError):
            return _failure("sandbox_violation", f"the model tried what inspected models may not do: {line.strip()}")
        cause = cause.__cause__
    return None


def _failure(code: str, detail: str) -> FailureFrame:
    clean = detail.encode(errors="replace").decode()
    return FailureFrame(code=code, detail=clean[:MOST_DETAIL])


def _send(frame: ProgressFrame | ResultFrame | FailureFrame) -> None:
    with open(FRAMES, "wb", buffering=PIPE_BYTES, closefd=False) as pipe:
        pipe.writelines(result_pieces(frame) if isinstance(frame, ResultFrame) else [frame.model_dump_json().encode()])
        pipe.write(b"\n")


def result_pieces(frame: ResultFrame) -> Iterator[bytes]:
    """Yield the frame's JSON row by row: the whole text of a large report might not fit into memory."""
    rest = frame.model_dump_json(exclude={"measurements": set(_ROWS)}).encode()
    yield rest.removesuffix(b"}}")
    for name in _ROWS:
        yield b',"%s":[' % name.encode()
        for index, row in enumerate(getattr(frame.measurements, name)):
            yield (b"," if index else b"") + row.model_dump_json().encode()
        yield b"]"
    yield b"}}"


def _read(descriptor: int) -> bytes:
    """Read an inherited file to its end and close it."""
    with io.FileIO(descriptor) as file:
        return file.readall()
