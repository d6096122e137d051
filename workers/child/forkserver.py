"""The warm process that forks a child for each job: torch is imported once, and jobs share no state.

It is started by exec with a scrubbed environment and stays single-threaded: children of a process that ever ran a
multi-threaded OpenMP region hang. It reads requests from one socket, never a model.

A request is one packet: a JSON header, and descriptors in the order status, job, frames, log, then the job's files. It
answers on the status socket: `{"pid", "fork_seconds"}` with a pidfd, and `{"status"}` when the child has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import NoReturn, TypedDict

from gradinspect.contracts.document import from_python
from gradinspect.contracts.wire.messages import Limits
from workers.child import runner, sandbox
from workers.child.confinement import confine, reachable_level
from workers.child.warmup import warm_up

DRAIN = b"drain"
MOST_HEADER_BYTES = 64 * 2**10
MOST_REQUEST_DESCRIPTORS = 8
ABOVE_ALL_TARGETS = 64


class Header(TypedDict):
    """A request without its descriptors."""

    files: list[str]
    limits: dict[str, float]
    level: sandbox.Level
    cuda_device: str | None


@dataclass
class Child:
    """A running child of this process."""

    pid: int
    pidfd: int
    status: socket.socket


def main(control_descriptor: int, parent: int) -> None:
    """Warm up, report what this process is, and serve until the socket closes."""
    sandbox.die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    warmed = warm_up()
    level, reason = reachable_level(warmed.compute)
    facts = {"torch_version": warmed.torch_version, "level": level, "reason": reason}
    control.send(json.dumps(facts).encode())
    _serve(control)


def _serve(control: socket.socket) -> None:
    """Fork on request and report ends. When the socket closes, kill every child; after DRAIN, let them finish."""
    null = os.open(os.devnull, os.O_RDWR)
    children: dict[int, Child] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    is_open = True
    while is_open or children:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                _report_end(children.pop(descriptor))
                continue
            packet, descriptors, _, _ = socket.recv_fds(control, MOST_HEADER_BYTES, MOST_REQUEST_DESCRIPTORS)
            if packet and packet != DRAIN:
                child = _fork(json.loads(packet), descriptors, null)
                if child is not None:
                    children[child.pidfd] = child
                    poll.register(child.pidfd, select.POLLIN)
                continue
            if not packet:
                for child in children.values():
                    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            is_open = False
            poll.unregister(control)


def _fork(header: Header, descriptors: list[int], null: int) -> Child | None:
    """Fork a child; None if the machine cannot, which the requester sees by the end of the status socket."""
    status, *others = descriptors
    started, me = time.perf_counter(), os.getpid()
    try:
        pid = os.fork()
    except OSError:
        traceback.print_exc()
        for descriptor in (*others, status):
            os.close(descriptor)
        return None
    if pid == 0:
        _become_child(header, others, null, me)
    pidfd = os.pidfd_open(pid)
    for descriptor in others:
        os.close(descriptor)
    child = Child(pid, pidfd, socket.socket(fileno=status))
    answer = json.dumps({"pid": pid, "fork_seconds": time.perf_counter() - started}) + "\n"
    try:
        socket.send_fds(child.status, [answer.encode()], [pidfd])
    except OSError:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # the requester is gone
    return child


def _report_end(child: Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    try:
        child.status.send(json.dumps({"status": status}).encode() + b"\n")
    except OSError:
        pass  # the requester is gone
    finally:
        child.status.close()
        os.close(child.pidfd)


def _become_child(header: Header, descriptors: list[int], null: int, parent: int) -> NoReturn:
    """Become the child of a job and exit. The order matters: each step removes what earlier steps needed."""
    code = 70
    try:
        os.setsid()
        sandbox.die_with_parent(parent)
        job, frames, log, *files = descriptors
        targets = {0: null, 1: log, 2: log, runner.FRAMES: frames, runner.JOB: job}
        targets |= {runner.FILES[name]: file for name, file in zip(header["files"], files, strict=True)}
        _arrange_descriptors(targets)
        if header["cuda_device"] is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = header["cuda_device"]
        limits = from_python(Limits, header["limits"])
        sandbox.limit_resources(limits, memory=header["cuda_device"] is None)
        sandbox.refuse_privileges()
        inputs = runner.read_inputs(list(header["files"]))
        if header["level"] == "full":
            confine()
        runner.main(inputs, confinement=header["level"])
        code = 0
    except BaseException:  # noqa: BLE001  # this process must not go on as a fork server
        traceback.print_exc()
    finally:
        os._exit(code)


def _arrange_descriptors(targets: dict[int, int]) -> None:
    """Move each descriptor to the number that the runner expects, and close all others."""
    high = {target: fcntl.fcntl(source, fcntl.F_DUPFD, ABOVE_ALL_TARGETS) for target, source in targets.items()}
    for target in range(max(runner.FILES.values()) + 1):
        if target in high:
            os.dup2(high[target], target)
        else:
            os.closerange(target, target + 1)
    os.closerange(max(runner.FILES.values()) + 1, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
