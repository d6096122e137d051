"""One child of a fork server on the worker's side: its pipes and its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

FORK_SECONDS = 30
FRAMES_PIPE_BYTES = 2**20
_PROCESS_CLOCK = 2  # with a process id, the clock that clock_getcpuclockid of the C library returns

Ask = Callable[[bytes, list[int]], None]


@dataclass
class Child:
    """One running child. Closing it kills it."""

    pid: int
    pidfd: int
    frames: int
    log: int
    status: socket.socket
    fork_seconds: float

    def cpu_seconds(self) -> float | None:
        """Return the CPU time that all its threads have used so far; None once it is gone."""
        try:
            return time.clock_gettime((~self.pid << 3) | _PROCESS_CLOCK)
        except OSError:
            return None

    def kill(self) -> None:
        """Send SIGKILL through the pidfd, which cannot mean another process as a reused id could."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill the child if it still runs, and close its pipes."""
        self.kill()
        self.status.close()
        for descriptor in (self.pidfd, self.frames, self.log):
            os.close(descriptor)


def spawn(ask: Ask, header: bytes, job: bytes, files: Mapping[str, BinaryIO]) -> Child:
    """Have a fork server fork a child; return it with our ends of its pipes.

    Args:
        ask: sends one request to the server.
        header: JSON of the request.
        job: JSON of a `Job`; the child gets it as a file in memory.
        files: what the job reads, by the runner's names.

    Raises:
        OSError, EOFError: the server is gone.
    """
    mine, theirs = socket.socketpair()
    frames, frames_end = os.pipe()
    log, log_end = os.pipe()
    job_file = _in_memory(job)
    _enlarge(frames)
    descriptors = [theirs.fileno(), job_file, frames_end, log_end, *(file.fileno() for file in files.values())]
    try:
        ask(header, descriptors)
        theirs.close()
        mine.settimeout(FORK_SECONDS)
        packet, received, _, _ = socket.recv_fds(mine, 4096, 1)
        if not packet or not received:
            raise EOFError("it could not fork, or ended during the request")
        answer = json.loads(packet.splitlines()[0])
        mine.setblocking(False)
        return Child(answer["pid"], received[0], frames, log, mine, answer["fork_seconds"])
    except BaseException:
        mine.close()
        os.close(frames)
        os.close(log)
        raise
    finally:
        theirs.close()
        for descriptor in (job_file, frames_end, log_end):
            os.close(descriptor)


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("job")
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _enlarge(pipe: int) -> None:
    """Enlarge a pipe for large reports; a user over the kernel's limit of large pipes keeps the default."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, FRAMES_PIPE_BYTES)
