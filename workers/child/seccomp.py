"""System call filter: only what computing in memory and writing to open pipes needs is allowed.

No open, socket, exec or new process: every call that is not listed fails with EPERM, which a model sees as a permission
error. PROT_EXEC stays allowed, because oneDNN writes its kernels at run time.

Sources: the kernel's include/uapi/linux/{seccomp,filter,audit}.h and the system call tables of both architectures.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ALLOWED_CALLS = """
    read write close fstat lseek brk mmap mprotect munmap mremap futex rt_sigaction rt_sigprocmask rt_sigreturn
    sigaltstack sched_yield sched_getaffinity clock_gettime clock_nanosleep nanosleep gettimeofday getpid gettid getcpu
    getrandom getrusage set_robust_list set_tid_address rseq restart_syscall exit exit_group
"""

# Exactly the flags with which the C libraries create a thread: none that makes a namespace.
THREADS = (0x003D0F00, 0x007D0F00)
BAD_PAGES = (100, 101)  # MADV_HWPOISON, MADV_SOFT_OFFLINE: as root, they remove memory from the machine
IOCTLS = (0x5401, 0x541B, 0x5451, 0x5421)  # TCGETS, FIONREAD, FIOCLEX, FIONBIO: for open pipes
PRCTLS = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory

_EPERM, _ENOSYS = 1, 38
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_X32_BIT = 0x40000000

# Actions, and offsets into struct seccomp_data
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# Instructions of classic BPF: load a word, jump if equal / not less, return
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
Instruction = tuple[int, int, int, int]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Architecture:
    """The kernel's numbers for one architecture and its system calls."""

    audit: int
    seccomp: int
    numbers: dict[str, int]


def _numbers(table: str) -> dict[str, int]:
    words = table.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


ARCHITECTURES = {
    "x86_64": Architecture(
        audit=0xC000003E,
        seccomp=317,
        numbers=_numbers(
            "read 0 write 1 close 3 fstat 5 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13 "
            "rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 sched_yield 24 mremap 25 madvise 28 nanosleep 35 getpid 39 "
            "clone 56 exit 60 gettimeofday 96 getrusage 98 sigaltstack 131 prctl 157 gettid 186 futex 202 "
            "sched_getaffinity 204 set_tid_address 218 restart_syscall 219 clock_gettime 228 clock_nanosleep 230 "
            "exit_group 231 tgkill 234 set_robust_list 273 prlimit64 302 getcpu 309 getrandom 318 rseq 334 clone3 435"
        ),
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        seccomp=277,
        numbers=_numbers(
            "ioctl 29 close 57 lseek 62 read 63 write 64 fstat 80 exit 93 exit_group 94 set_tid_address 96 futex 98 "
            "set_robust_list 99 nanosleep 101 clock_gettime 113 clock_nanosleep 115 sched_getaffinity 123 "
            "sched_yield 124 restart_syscall 128 tgkill 131 sigaltstack 132 rt_sigaction 134 rt_sigprocmask 135 "
            "rt_sigreturn 139 getrusage 165 prctl 167 getcpu 168 gettimeofday 169 getpid 172 gettid 178 brk 214 "
            "munmap 215 mremap 216 clone 220 mmap 222 mprotect 226 madvise 233 prlimit64 261 getrandom 278 rseq 293 "
            "clone3 435"
        ),
    ),
}


def install() -> None:
    """Filter the system calls of this process and its later threads irrevocably. NO_NEW_PRIVS must be set.

    Raises:
        OSError: the kernel refuses, or there is no table for this architecture.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise OSError(_ENOSYS, f"no table of system calls for {platform.machine()}")
    program = list(filter_program(architecture, os.getpid()))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))
    flags = ctypes.c_ulong(_FLAG_TSYNC)
    if _libc.syscall(architecture.seccomp, _SET_MODE_FILTER, flags, ctypes.byref(header)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def filter_program(architecture: Architecture, pid: int) -> Iterator[Instruction]:
    """Yield the filter as classic BPF.

    Args:
        architecture: whose calls are filtered; a call of any other kills the process.
        pid: this process, which may signal its threads.
    """
    numbers = architecture.numbers
    yield from (_load(_ARCHITECTURE), (_EQUAL, 1, 0, architecture.audit), _return(_KILL))
    yield from (_load(_NUMBER), (_AT_LEAST, 0, 1, _X32_BIT), _return(_KILL))
    for name in ALLOWED_CALLS.split():
        yield from ((_EQUAL, 0, 1, numbers[name]), _return(_ALLOW))
    for name, block in (
        ("clone", _if_one_of(0, THREADS)),
        ("madvise", _unless_one_of(2, BAD_PAGES)),
        (
            "clone3",
            [_return(_ERRNO | _ENOSYS)],
        ),  # its flags are behind a pointer; on ENOSYS the C library falls back to clone
        ("tgkill", _if_one_of(0, [pid])),
        ("prlimit64", _if_null(2)),
        ("ioctl", _if_one_of(1, IOCTLS)),
        ("prctl", _if_one_of(0, PRCTLS)),
    ):
        yield (_EQUAL, 0, len(block), numbers[name])
        yield from block
    yield _return(_ERRNO | _EPERM)


def _if_one_of(argument: int, values: Sequence[int]) -> list[Instruction]:
    return _decide(argument, values, listed=_ALLOW, other=_ERRNO | _EPERM)


def _unless_one_of(argument: int, values: Sequence[int]) -> list[Instruction]:
    return _decide(argument, values, listed=_ERRNO | _EPERM, other=_ALLOW)


def _decide(argument: int, values: Sequence[int], *, listed: int, other: int) -> list[Instruction]:
    tests = [part for value in values for part in ((_EQUAL, 0, 1, value), _return(listed))]
    return [_load_low(argument), *tests, _return(other)]


def _if_null(argument: int) -> list[Instruction]:
    refuse, low, high = _return(_ERRNO | _EPERM), _load_low(argument), _load(_ARGUMENTS + 8 * argument + 4)
    return [low, (_EQUAL, 1, 0, 0), refuse, high, (_EQUAL, 1, 0, 0), refuse, _return(_ALLOW)]


def _load_low(argument: int) -> Instruction:
    """Load the lower half of an argument; both architectures are little-endian."""
    return _load(_ARGUMENTS + 8 * argument)


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)
