"""The system call filter, in an interpreter of classic BPF for both architectures and in the kernel for this one."""

from __future__ import annotations

import os
import struct

import pytest

from workers.child.seccomp import ARCHITECTURES, Instruction, filter_program

KILL, ALLOW, EPERM, ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
PID = 4321

# Numbers of calls that a model has no use for, from the kernel's tables.
REFUSED = {
    "x86_64": {
        "open": 2, "socket": 41, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "unlink": 87, "ptrace": 101,
        "openat": 257, "memfd_create": 319, "execveat": 322, "io_uring_setup": 425, "pidfd_open": 434, "openat2": 437,
        "process_vm_readv": 310, "bpf": 321, "userfaultfd": 323, "sendmsg": 46, "dup": 32, "pipe": 22,
    },
    "aarch64": {
        "openat": 56, "socket": 198, "execve": 221, "kill": 129, "unlinkat": 35, "ptrace": 117, "memfd_create": 279,
        "execveat": 281, "io_uring_setup": 425, "pidfd_open": 434, "openat2": 437, "process_vm_readv": 270,
        "bpf": 280, "userfaultfd": 282, "sendmsg": 211, "dup": 23, "pipe2": 59,
    },
}  # fmt: skip


def run(program: list[Instruction], data: bytes) -> int:
    """Interpret classic BPF as the kernel does: load, jump forwards, return."""
    accumulator = place = 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand}[code]
            place += if_true if holds else if_false


def outcome(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    architecture = ARCHITECTURES[machine]
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, audit or architecture.audit, 0, *padded)
    return run(list(filter_program(architecture, PID)), data)


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_memory_can_be_freed_and_no_page_taken_offline(machine: str) -> None:
    madvise = ARCHITECTURES[machine].numbers["madvise"]
    for advice, expected in ((4, ALLOW), (14, ALLOW), (100, EPERM), (101, EPERM), (102, ALLOW)):
        assert outcome(machine, madvise, 4096, 4096, advice) == expected


def test_a_call_of_another_architecture_kills_the_process(machine: str) -> None:
    other = next(found for name, found in ARCHITECTURES.items() if name != machine)
    assert outcome(machine, ARCHITECTURES[machine].numbers["read"], audit=other.audit) == KILL
    assert outcome(machine, 0x40000000) == KILL


def test_computing_and_writing_to_open_pipes_is_allowed(machine: str) -> None:
    for name in ("read", "write", "mmap", "munmap", "futex", "exit_group", "getrandom"):
        assert outcome(machine, ARCHITECTURES[machine].numbers[name]) == ALLOW


def test_everything_that_is_not_listed_is_refused(machine: str) -> None:
    found = {name: outcome(machine, number) for name, number in REFUSED[machine].items()}
    assert found == dict.fromkeys(REFUSED[machine], EPERM)


def test_only_the_listed_call_numbers_are_allowed(machine: str) -> None:
    numbers = ARCHITECTURES[machine].numbers
    allowed = {number for number in range(600) if outcome(machine, number, 0, 0, 0) == ALLOW}
    # prlimit64 with a null pointer only reads a limit.
    conditional = {numbers[name] for name in ("clone", "clone3", "tgkill", "ioctl", "prctl")}
    assert allowed == set(numbers.values()) - conditional


def test_threads_can_be_created_and_processes_cannot(machine: str) -> None:
    clone, thread_flags, fork_flags = ARCHITECTURES[machine].numbers["clone"], 0x003D0F00, 0x01200011
    assert outcome(machine, clone, thread_flags) == ALLOW
    assert outcome(machine, clone, fork_flags) == EPERM
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert outcome(machine, clone, thread_flags | namespace) == EPERM
    assert outcome(machine, ARCHITECTURES[machine].numbers["clone3"], 1, 88) == ENOSYS


def test_only_threads_of_the_process_can_be_signalled(machine: str) -> None:
    tgkill = ARCHITECTURES[machine].numbers["tgkill"]
    assert outcome(machine, tgkill, PID, 1, 6) == ALLOW
    assert outcome(machine, tgkill, PID + 1, 1, 6) == EPERM


def test_limits_can_be_read_and_not_set(machine: str) -> None:
    prlimit = ARCHITECTURES[machine].numbers["prlimit64"]
    assert outcome(machine, prlimit, 0, 7, 0, 0x7FFF0000) == ALLOW
    assert outcome(machine, prlimit, 0, 7, 0x7FFF0000) == EPERM
    assert outcome(machine, prlimit, 0, 7, 0x7FFF00000000) == EPERM


def test_terminals_and_processes_cannot_be_controlled(machine: str) -> None:
    numbers = ARCHITECTURES[machine].numbers
    assert outcome(machine, numbers["ioctl"], 1, 0x5401) == ALLOW  # TCGETS, of isatty
    assert outcome(machine, numbers["ioctl"], 0, 0x5412) == EPERM  # TIOCSTI types into a terminal
    assert outcome(machine, numbers["prctl"], 15) == ALLOW  # PR_SET_NAME
    assert outcome(machine, numbers["prctl"], 4, 1) == EPERM  # PR_SET_DUMPABLE


def test_the_table_matches_this_machines_kernel() -> None:
    machine = os.uname().machine
    assert machine in ARCHITECTURES, f"uploads are refused on {machine}"
