"""Full confinement: no files, no network, no programs, no processes. Tried, not assumed."""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Callable

from workers.child import landlock, sandbox, seccomp
from workers.child.sandbox import Level

# What a confined process must not be able to do, and how it would.
FORBIDDEN: dict[str, Callable[[], object]] = {
    "open a file": lambda: os.open("/proc/self/status", os.O_RDONLY),
    "write a file": lambda: os.open("/tmp/gradinspect-self-test", os.O_WRONLY | os.O_CREAT),  # noqa: S108  # never made
    "make a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "make a pair of sockets": socket.socketpair,
    "start a process": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606  # refused, or the test has failed
    "signal its parent": lambda: os.kill(os.getppid(), 0),
}


def confine() -> None:
    """Confine this process for good: first Landlock, whose own calls the filter would refuse, then the filter.

    Raises:
        OSError: the kernel refuses.
    """
    landlock.restrict()
    seccomp.install()


def reachable_level(useful: Callable[[], object]) -> tuple[Level, str]:
    """The level that a child can reach here, and why it is not `full` where it is not.

    A child confines itself, is refused everything in `FORBIDDEN`, and can still do something useful.

    Args:
        useful: what a confined child must be able to do, a small computation.
    """
    reading, writing = os.pipe()
    me, pid = os.getpid(), os.fork()
    if pid == 0:
        _try_out(useful, writing, me)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status == 0 and said == "confined":
        return "full", ""
    return "limits", f"full confinement does not work here: {said or f'the test ended with status {status}'}"[:1000]


def _try_out(useful: Callable[[], object], answer: int, parent: int) -> None:
    """In the child: say `confined`, or what was possible that must not be, or what went wrong."""
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
    except BaseException as error:  # noqa: BLE001  # the answer says it; nothing of this process may run on
        os.write(answer, f"{type(error).__name__}: {error}".encode())
        traceback.print_exc()
    finally:
        os._exit(code)


def _is_refused(act: Callable[[], object]) -> bool:
    try:
        made = act()
    except OSError as error:
        return error.errno == errno.EPERM
    if made == 0 and act is os.fork:
        os._exit(0)  # the process that must not be
    return False
