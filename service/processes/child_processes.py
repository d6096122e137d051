"""Processes that must not outlive the one that started them, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: IO[bytes] | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a new session, so that a Ctrl-C at the terminal reaches only the caller.

    The kernel kills it when the calling thread ends, so call this from the main thread.

    Args:
        command: the program and its arguments.
        environment: its whole environment.
        output: file for its standard output and error; None inherits ours.
        descriptors: open files that it inherits.
    """
    return subprocess.Popen(  # noqa: S603  # programs of ours, or a broker from PATH
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        start_new_session=True,
        preexec_fn=_dies_with(os.getpid()),  # one system call, prepared before the fork
    )


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _dies_with(parent: int) -> Callable[[], None]:
    def ask() -> None:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the call

    return ask
