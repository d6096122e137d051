"""Full confinement: no files, no network, no programs, no processes. It is tested, not assumed."""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Callable

from workers.child import landlock, sandbox, seccomp
from workers.child.sandbox import Level

# What a confined process must not be able to do, and a call that would do it.
FORBIDDEN: dict[str, Callable[[], object]] = {
    "open a file": lambda: os.open("/proc/self/status", os.O_RDONLY),
    "write a file": lambda: os.open("/tmp/gradinspect-self-test", os.O_WRONLY | os.O_CREAT),  # noqa: S108  # never created
    "make a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "make a pair of sockets": socket.socketpair,
    "start a process": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606  # must be refused
    "signal its parent": lambda: os.kill(os.getppid(), 0),
}


def confine() -> None:
    """Confine this process irrevocably: first Landlock, whose calls the filter would refuse, then the filter.

    Raises:
        OSError: the kernel refuses.
    """
    landlock.restrict()
    seccomp.install()


def reachable_level(useful: Callable[[], object]) -> tuple[Level, str]:
    """Return the level that a child can reach on this machine, and the reason if it is not `full`.

    Forks a child that confines itself, tries everything in `FORBIDDEN`, and then computes.

    Args:
        useful: a small computation that a confined child must be able to do.
    """
    reading, writing = os.pipe()
    me, pid = os.getpid(), os.fork()
    if pid == 0:
        _try_out(useful, writing, me)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        result = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status == 0 and result == "confined":
        return "full", ""
    return "limits", f"full confinement does not work here: {result or f'the test ended with status {status}'}"[:1000]


def _try_out(useful: Callable[[], object], answer: int, parent: int) -> None:
    """Write `confined`, or the forbidden acts that were possible, or the error, from inside the child."""
    code = 1
    try:
        sandbox.die_with_parent(parent)
        sandbox.refuse_privileges()
        try:
            confine()
        except OSError as error:
            os.write(answer, str(error).encode())
            return
        possible = [name for name, act in FORBIDDEN.items() if not _is_refused(act)]
        useful()
        os.write(answer, f"a confined process can {', '.join(possible)}".encode() if possible else b"confined")
        code = 0
    except BaseException as error:  # noqa: BLE001  # the answer holds it; this process must not go on
        os.write(answer, f"{type(error).__name__}: {error}".encode())
        traceback.print_exc()
    finally:
        os._exit(code)


def _is_refused(act: Callable[[], object]) -> bool:
    try:
        result = act()
    except OSError as error:
        return error.errno == errno.EPERM
    if result == 0 and act is os.fork:
        os._exit(0)  # in the forbidden process
    return False
