"""How a job can end, as its supervisor sees it, and which name each way of dying has."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.wire.messages import JobTimings, Limits


@dataclass(frozen=True)
class Measured:
    """It gave measurements."""

    measurements: Measurements
    timings: JobTimings


@dataclass(frozen=True)
class Failed:
    """It cannot give a report, for a reason with a name; trying again would end the same way."""

    code: str
    detail: str


@dataclass(frozen=True)
class Lost:
    """The lease is gone: cancelled, or another worker has it. Whatever was computed is dropped."""


@dataclass(frozen=True)
class Died:
    """Something outside killed the child or its fork server; another attempt may end well."""

    detail: str


@dataclass(frozen=True)
class Stopped:
    """This worker was told to stop; the inspection goes back to the queue."""


Ending = Measured | Failed | Lost | Died | Stopped


def time_limit(limits: Limits) -> Failed:
    """The supervisor's own kill."""
    return Failed("time_limit", f"the computation did not end within {limits.wall_seconds:g} seconds")


def of_exit(status: int, limits: Limits, *, is_upload: bool, out_of_memory_kills: int) -> Failed | Died:
    """Name the end of a child that died without saying why.

    Args:
        status: as waitpid gives it.
        limits: what it was allowed.
        is_upload: a stranger's program ran; otherwise a crash is our own defect.
        out_of_memory_kills: how often the kernel killed for memory in our control group while the child ran.
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
