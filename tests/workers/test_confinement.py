"""Confinement is tested before it is reported, and a kernel that refuses it lowers the level."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.child import confinement, landlock
from workers.child.confinement import FORBIDDEN, confine, reachable_level
from workers.child.sandbox import refuse_privileges


def in_a_child(work: Callable[[], object]) -> str:
    """Run `work` in a forked process and return its result."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:  # noqa: BLE001  # the parent reads it
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def test_full_confinement_is_available_on_this_kernel() -> None:
    assert reachable_level(lambda: sum(range(1000))) == ("full", "")


def test_every_forbidden_act_fails_in_a_confined_process() -> None:
    def try_all() -> list[str]:
        refuse_privileges()
        confine()
        return [name for name, act in FORBIDDEN.items() if not confinement._is_refused(act)]

    assert in_a_child(try_all) == "[]"


def test_each_forbidden_act_is_possible_without_confinement(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise the test above could not fail. Running a program would replace the process, so that act is omitted.
    acts = {name: act for name, act in FORBIDDEN.items() if name not in ("run a program", "write a file")}
    monkeypatch.setattr(confinement, "FORBIDDEN", acts)
    level, reason = in_a_child(lambda: "|".join(without_confinement())).split("|")
    assert level == "limits"
    assert all(name in reason for name in acts)


def without_confinement() -> tuple[str, str]:
    confinement.confine = lambda: None
    return reachable_level(lambda: None)


def test_a_kernel_that_refuses_confinement_lowers_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(38, "seccomp: Function not implemented")

    monkeypatch.setattr(confinement, "confine", refuse)
    level, reason = reachable_level(lambda: None)
    assert level == "limits"
    assert "Function not implemented" in reason


def test_a_confined_process_that_cannot_compute_is_not_usable() -> None:
    level, reason = reachable_level(Path("/dev/null").read_bytes)
    assert level == "limits"
    assert "Operation not permitted" in reason


def test_landlock_alone_denies_files() -> None:
    if landlock.abi() == 0:
        return  # the filter does not need Landlock, as the tests above show

    def open_a_file() -> str:
        refuse_privileges()
        assert landlock.restrict() == landlock.abi()
        return Path("/etc/passwd").read_text()

    assert "Permission" in in_a_child(open_a_file)
    assert Path("/etc/passwd").exists()  # and readable by this process, which is not confined
