"""Watch one child until it has ended: its frames, its log, the clock, the lease.

Knows the child's pipes and limits, and no database.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter

from gradinspect.contracts.wire.messages import FailureFrame, JobTimings, Limits, ProgressFrame, ResultFrame
from workers.supervisor.children import Child
from workers.supervisor.endings import Died, Ending, Failed, Lost, Measured, Stopped, of_exit, time_limit
from workers.supervisor.frames import FrameReader, HostileFrameError, OversizedResultError

LOG_BYTES = 4096
LOG_READS = 16  # at once, of 64 KiB: a child may write as fast as it is read
TICK_SECONDS = 0.1  # how soon a lost lease or an order to stop takes effect
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass
class Watch:
    """What the supervisor looks at besides the child.

    Attributes:
        is_lost: returns whether the lease is gone.
        is_stopping: returns whether this worker has to give its jobs back now.
        on_progress: receives the stage and the fraction done.
    """

    is_lost: Callable[[], bool]
    is_stopping: Callable[[], bool]
    on_progress: Callable[[str, float], None]


def supervise(child: Child, limits: Limits, watch: Watch, *, is_upload: bool) -> tuple[Ending, bytes]:
    """Watch one child until it has ended; return how it ended and the first 4 KiB of its log.

    The child is dead on return, or about to be: the caller closes it.

    Args:
        child: just started.
        limits: what it may use; its wall time starts now.
        watch: the lease, the worker and the progress.
        is_upload: the child runs an uploaded program, so its crashes are no defect of ours.
    """
    supervision = _Supervision(child, limits, watch, is_upload=is_upload)
    return supervision.run(), bytes(supervision.log.head)


class LogReader:
    """Reads a log and saves its beginning in `head`.

    Args:
        descriptor: the reading end; it is made non-blocking.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.head = bytearray()
        self._descriptor = descriptor

    def read(self) -> bool:
        """Read what has arrived, up to a bound; return False at the end of the log."""
        try:
            for _ in range(LOG_READS):
                piece = os.read(self._descriptor, 65536)
                if not piece:
                    return False
                self.head += piece[: LOG_BYTES - len(self.head)]
        except BlockingIOError:
            pass
        return True


class _Supervision:
    """What is known of one child while it runs."""

    def __init__(self, child: Child, limits: Limits, watch: Watch, *, is_upload: bool) -> None:
        self.log = LogReader(child.log)
        self._child = child
        self._limits = limits
        self._watch = watch
        self._is_upload = is_upload
        self._started, self._deadline = perf_counter(), monotonic() + limits.wall_seconds
        self._earlier_kills = _out_of_memory_kills()
        self._frame_count = 0
        self._last_frame: ResultFrame | FailureFrame | None = None
        self._exit_status: int | None = None
        self._server_is_gone = False
        self._reader = FrameReader(child.frames, limit=limits.result_bytes)
        self._poll = select.poll()
        for descriptor in (child.frames, child.log, child.status.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> Ending:
        """Read what the child sends until an ending is known."""
        while True:
            remaining = self._deadline - monotonic()
            ending = self._ordered_end(remaining) or self._read(self._wait(remaining)) or self._end_of_child()
            if ending is not None:
                return ending

    def _ordered_end(self, remaining_seconds: float) -> Ending | None:
        """Return the ending that something besides the child demands."""
        if self._watch.is_lost():
            return Lost()
        if self._watch.is_stopping():
            return Stopped()
        return time_limit(self._limits) if remaining_seconds <= 0 else None

    def _wait(self, remaining_seconds: float) -> set[int]:
        """Wait a tick at most; return the descriptors that can be read."""
        return {descriptor for descriptor, _ in self._poll.poll(1000 * min(TICK_SECONDS, remaining_seconds))}

    def _read(self, ready: set[int]) -> Failed | None:
        """Read log, status and frames; return a failure where the frames are not acceptable."""
        child = self._child
        if child.log in ready and not self.log.read():
            self._poll.unregister(child.log)
        if child.status.fileno() in ready:
            self._read_status()
            self._poll.unregister(child.status)
        # After an end, what the child wrote before it is still in the pipe.
        has_ended = self._exit_status is not None or self._server_is_gone
        if child.frames in ready or has_ended:
            failure = self._read_frames()
            if failure is not None:
                return failure
            if not self._reader.is_open and child.frames in ready:
                self._poll.unregister(child.frames)
        return None

    def _end_of_child(self) -> Ending | None:
        """Return how the child ended by itself; None while it runs."""
        if self._last_frame is not None:
            self.log.read()
            return self._reported_end(self._last_frame)
        if self._exit_status is not None:
            self.log.read()
            kills = _out_of_memory_kills() - self._earlier_kills
            return of_exit(self._exit_status, self._limits, is_upload=self._is_upload, out_of_memory_kills=kills)
        return Died("the fork server was lost") if self._server_is_gone else None

    def _reported_end(self, frame: ResultFrame | FailureFrame) -> Ending:
        if isinstance(frame, FailureFrame):
            return Failed(frame.code, frame.detail)
        run_seconds = perf_counter() - self._started
        timings = JobTimings(
            fork_seconds=self._child.fork_seconds,
            run_seconds=run_seconds,
            cpu_seconds=self._child.cpu_seconds(),
            frames=self._frame_count,
        )
        return Measured(frame.measurements, timings)

    def _read_frames(self) -> Failed | None:
        try:
            for frame in self._reader.read():
                self._frame_count += 1
                if not isinstance(frame, ProgressFrame):
                    self._last_frame = frame  # whatever a child may write after it
                    return None
                self._watch.on_progress(frame.stage, frame.fraction)
        except OversizedResultError:
            limit = self._limits.result_bytes
            return Failed("memory_limit", f"the report is larger than {limit} bytes, the limit for a result")
        except HostileFrameError as error:
            code = "model_crashed" if self._is_upload else "internal"
            return Failed(code, f"the process that ran the model sent an invalid report: {error}")
        return None

    def _read_status(self) -> None:
        try:
            message = self._child.status.recv(4096)
        except OSError:
            message = b""
        if message:
            self._exit_status = int(json.loads(message)["status"])
        else:
            self._server_is_gone = True


def _out_of_memory_kills() -> int:
    """Return how often the kernel has killed for memory in our control group; 0 where it does not count."""
    try:
        for line in _MEMORY_EVENTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return 0
