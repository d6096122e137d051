"""One child of a fork server, held from the worker's side: its pipes, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

FORK_SECONDS = 30
FRAMES_PIPE_BYTES = 2**20

Ask = Callable[[bytes, list[int]], None]


@dataclass
class Child:
    """One running child, as its supervisor holds it. Close it: that is its end, too."""

    pid: int
    pidfd: int
    frames: int
    log: int
    status: socket.socket
    fork_seconds: float

    def kill(self) -> None:
        """SIGKILL; the process id cannot have passed to another process, because it is not used."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill it, if it still runs, and let go of its pipes."""
        self.kill()
        self.status.close()
        for descriptor in (self.pidfd, self.frames, self.log):
            os.close(descriptor)


def spawn(ask: Ask, header: bytes, job: bytes, files: Mapping[str, BinaryIO]) -> Child:
    """Have a fork server make a child, and keep our ends of its pipes.

    Args:
        ask: sends one request to the server.
        header: JSON of the request.
        job: JSON of a `Job`; the child gets it as a file in memory.
        files: the bytes that the job needs, by the runner's names.

    Raises:
        OSError, EOFError: the server is gone.
    """
    mine, theirs = socket.socketpair()
    frames, frames_end = os.pipe()
    log, log_end = os.pipe()
    job_file = _in_memory(job)
    _enlarge(frames)
    given = [theirs.fileno(), job_file, frames_end, log_end, *(file.fileno() for file in files.values())]
    try:
        ask(header, given)
        theirs.close()
        mine.settimeout(FORK_SECONDS)
        said, descriptors, _, _ = socket.recv_fds(mine, 4096, 1)
        if not said or not descriptors:
            raise EOFError("it could not make a child, or ended while it was asked for one")
        answer = json.loads(said.splitlines()[0])
        mine.setblocking(False)
        return Child(answer["pid"], descriptors[0], frames, log, mine, answer["fork_seconds"])
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
    """A large report crosses in fewer steps; a user who has too many large pipes keeps the default."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, FRAMES_PIPE_BYTES)
