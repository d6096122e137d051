"""Landlock: deny opening files, binding or reaching ports, and signalling other processes.

The ruleset has no rules, so everything that it handles is denied. A kernel with an older Landlock, or none, handles
less; the system call filter does not depend on it.

Source: the kernel's include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same number on every architecture
_VERSION_FLAG = 1

_FS_BITS = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI → number of access rights, from the lowest bit, that it knows
_NET_ABI, _NET_BITS = 4, 2  # bind and connect, of TCP
_SCOPE_ABI, _SCOPE_BITS = 6, 2  # abstract Unix sockets, and signals

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttributes(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


def abi() -> int:
    """Return this kernel's version of Landlock; 0 if it has none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)))


def restrict() -> int:
    """Deny everything that this kernel's Landlock can deny; return its ABI, 0 if there is none.

    NO_NEW_PRIVS must be set.

    Raises:
        OSError: the kernel has Landlock and refuses.
    """
    version = abi()
    if version == 0:
        return 0
    attributes = _RulesetAttributes(
        handled_access_fs=_ones(max(bits for abi_version, bits in _FS_BITS.items() if abi_version <= version)),
        handled_access_net=_ones(_NET_BITS) if version >= _NET_ABI else 0,
        scoped=_ones(_SCOPE_BITS) if version >= _SCOPE_ABI else 0,
    )
    # Older kernels know a shorter structure; the size selects it.
    size = 24 if version >= _SCOPE_ABI else 16 if version >= _NET_ABI else 8
    ruleset = _libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise _failure("landlock_create_ruleset")
    try:
        if _libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _failure("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return version


def _ones(count: int) -> int:
    return (1 << count) - 1


def _failure(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
