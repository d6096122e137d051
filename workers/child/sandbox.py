"""Restrictions that a process sets on itself before it reads an untrusted model.

Levels, as named in reports and /readyz: `limits` bounds memory, time and descriptors; `full` also takes away files,
network, programs and processes (`landlock`, `seccomp`). Imports nothing that holds a secret.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Literal

from gradinspect.contracts.wire.messages import Limits

Level = Literal["none", "limits", "full"]

MOST_DESCRIPTORS = 16
CPU_GRACE_SECONDS = 5  # chosen: between SIGXCPU, which names the cause, and SIGKILL, which cannot be ignored

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends.

    Args:
        parent: process id of the parent; if it has died already, this process exits.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_resources(limits: Limits, *, memory: bool) -> None:
    """Limit the resources of this process.

    Args:
        limits: `memory_bytes` is in addition to what is mapped already, mostly libraries.
        memory: limit the address space too, which a CUDA context would exceed: it maps far more than it uses.
    """
    if memory:
        _limit(resource.RLIMIT_AS, _mapped_bytes() + limits.memory_bytes)
    hard = limits.cpu_seconds + CPU_GRACE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(resource.RLIMIT_CPU, limits.cpu_seconds), hard))
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, MOST_DESCRIPTORS)
    _limit(resource.RLIMIT_CORE, 0)


def refuse_privileges() -> None:
    """Hide from debuggers of the same user, and never gain privileges by executing a program."""
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def prctl(option: int, value: int) -> None:
    """Call the system function `prctl`.

    Raises:
        OSError: the kernel refuses.
    """
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _limit(kind: int, value: int) -> None:
    value = _at_most(kind, value)
    resource.setrlimit(kind, (value, value))


def _at_most(kind: int, value: int) -> int:
    """Return `value`, or the hard limit where it is tighter, because it cannot be raised."""
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _mapped_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123  # pathlib would be imported for this alone
        return int(statm.read().split()[0]) * resource.getpagesize()
