"""Watch one child until it has ended, in whichever way: its frames, its log, the clock, the lease.

Knows the child's pipes and limits, and no database.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter

from gradinspect.contracts.wire.messages import FailureFrame, JobTimings, Limits, ProgressFrame
from workers.supervisor.children import Child
from workers.supervisor.endings import Died, Ending, Failed, Lost, Measured, Stopped, of_exit, time_limit
from workers.supervisor.frames import Frame, FrameReader, HostileFrameError, OversizedResultError

LOG_BYTES = 4096
LOG_READS = 16  # at once, of 64 KiB: a child may write as fast as it is read
TICK_SECONDS = 0.1  # how soon a lost lease or an order to stop is acted upon
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass
class Watch:
    """What the supervisor looks at besides the child.

    Attributes:
        is_lost: whether the lease is gone.
        is_stopping: whether this worker has to give its jobs back now.
        on_progress: told the stage and the fraction done.
    """

    is_lost: Callable[[], bool]
    is_stopping: Callable[[], bool]
    on_progress: Callable[[str, float], None]


@dataclass
class _Seen:
    frames: int = 0
    last: Frame | None = None
    log: bytearray = field(default_factory=bytearray)
    status: int | None = None
    server_is_gone: bool = False


def supervise(child: Child, limits: Limits, watch: Watch, *, is_upload: bool) -> tuple[Ending, bytes]:
    """See one child to its end; returns the ending and the first 4 KiB of its log.

    The child is dead when this returns, or about to be: the caller closes it.
    """
    started, deadline = perf_counter(), monotonic() + limits.wall_seconds
    kills_before = _out_of_memory_kills()
    seen = _Seen()
    reader = FrameReader(child.frames, limit=limits.result_bytes)
    os.set_blocking(child.log, False)
    poll = select.poll()
    for descriptor in (child.frames, child.log, child.status.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        if watch.is_lost():
            return Lost(), bytes(seen.log)
        if watch.is_stopping():
            return Stopped(), bytes(seen.log)
        remaining = deadline - monotonic()
        if remaining <= 0:
            return time_limit(limits), bytes(seen.log)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * min(TICK_SECONDS, remaining))}
        if child.log in ready and not _read_log(child.log, seen.log):
            poll.unregister(child.log)
        if child.status.fileno() in ready:
            _read_status(child, seen)
            poll.unregister(child.status)
        # After an end, what the child had written before it is still in the pipe.
        if child.frames in ready or seen.status is not None or seen.server_is_gone:
            ending = _read_frames(reader, seen, watch, limits, is_upload=is_upload)
            if ending is not None:
                return ending, bytes(seen.log)
            if not reader.is_open and child.frames in ready:
                poll.unregister(child.frames)
        if seen.last is not None and not isinstance(seen.last, ProgressFrame):
            _read_log(child.log, seen.log)
            return _said(seen, child.fork_seconds, perf_counter() - started), bytes(seen.log)
        if seen.status is not None:
            _read_log(child.log, seen.log)
            kills = _out_of_memory_kills() - kills_before
            return of_exit(seen.status, limits, is_upload=is_upload, out_of_memory_kills=kills), bytes(seen.log)
        if seen.server_is_gone:
            return Died("the fork server was lost"), bytes(seen.log)


def _read_frames(reader: FrameReader, seen: _Seen, watch: Watch, limits: Limits, *, is_upload: bool) -> Ending | None:
    try:
        for frame in reader.read():
            seen.frames += 1
            seen.last = frame
            if not isinstance(frame, ProgressFrame):
                return None  # the last one, whatever a child may write after it
            watch.on_progress(frame.stage, frame.fraction)
    except OversizedResultError:
        return Failed("memory_limit", f"the report is larger than {limits.result_bytes} bytes, the limit for a result")
    except HostileFrameError as error:
        code = "model_crashed" if is_upload else "internal"
        return Failed(code, f"the process that ran the model sent what is no report: {error}")
    return None


def _said(seen: _Seen, fork_seconds: float, run_seconds: float) -> Ending:
    last = seen.last
    assert last is not None
    assert not isinstance(last, ProgressFrame)
    if isinstance(last, FailureFrame):
        return Failed(last.code, last.detail)
    timings = JobTimings(fork_seconds=fork_seconds, run_seconds=run_seconds, frames=seen.frames)
    return Measured(last.measurements, timings)


def _read_log(descriptor: int, kept: bytearray) -> bool:
    """Keep the beginning and drop the rest; False at its end."""
    try:
        for _ in range(LOG_READS):
            piece = os.read(descriptor, 65536)
            if not piece:
                return False
            kept += piece[: LOG_BYTES - len(kept)]
    except BlockingIOError:
        pass
    return True


def _read_status(child: Child, seen: _Seen) -> None:
    try:
        said = child.status.recv(4096)
    except OSError:
        said = b""
    if said:
        seen.status = int(json.loads(said)["status"])
    else:
        seen.server_is_gone = True


def _out_of_memory_kills() -> int:
    """How often the kernel has killed for memory in our control group; 0 where it does not count."""
    try:
        for line in _MEMORY_EVENTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return 0
