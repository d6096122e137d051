"""The ways in which a job can end, and the failure code of each way of dying."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.wire.messages import JobTimings, Limits


@dataclass(frozen=True)
class Measured:
    """The child sent measurements."""

    measurements: Measurements
    timings: JobTimings


@dataclass(frozen=True)
class Failed:
    """There is no report, for a named reason; another attempt would end the same way."""

    code: str
    detail: str


@dataclass(frozen=True)
class Lost:
    """The lease is lost: the inspection was cancelled, or another worker has it. The computation is dropped."""


@dataclass(frozen=True)
class Died:
    """Something outside killed the child or its fork server; another attempt may succeed."""

    detail: str


@dataclass(frozen=True)
class Stopped:
    """This worker is stopping; the inspection goes back to the queue."""


Ending = Measured | Failed | Lost | Died | Stopped


def time_limit(limits: Limits) -> Failed:
    """Return the failure of a child that the supervisor killed after its wall time."""
    return Failed("time_limit", f"the computation did not end within {limits.wall_seconds:g} seconds")


def of_exit(status: int, limits: Limits, *, is_upload: bool, out_of_memory_kills: int) -> Failed | Died:
    """Name the end of a child that died without a final frame.

    Args:
        status: as waitpid returns it.
        limits: of the job.
        is_upload: the child ran an uploaded program; otherwise a crash is a defect of ours.
        out_of_memory_kills: kills for memory in our control group while the child ran.
    """
    if os.WIFEXITED(status):
        return Failed("internal", f"the process that ran the model ended with {os.WEXITSTATUS(status)} and no result")
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
    if number == signal.SIGXCPU:
        return Failed("cpu_limit", f"the computation used more than {limits.cpu_seconds} seconds of CPU time")
    if number == signal.SIGKILL:
        if out_of_memory_kills > 0:
            return Failed("memory_limit", "the kernel ended the computation because memory ran out on the worker")
        return Died("the process that ran the model was killed from outside")
    if number == signal.SIGSYS:
        return Failed("sandbox_violation", "the model made a system call of another architecture")
    if number == signal.SIGXFSZ:
        return Failed("sandbox_violation", "the model tried to write a file")
    whose = "the uploaded model" if is_upload else "the model"
    return Failed("model_crashed", f"the process that ran {whose} died of {name}")
