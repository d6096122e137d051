"""Each way of dying has one failure code."""

from __future__ import annotations

import signal

import pytest

from gradinspect.contracts.problems import FAILURES
from gradinspect.contracts.wire.messages import Limits
from workers.supervisor.endings import Died, Failed, of_exit, time_limit

LIMITS = Limits(cpu_seconds=7, wall_seconds=2.5)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGXCPU, "cpu_limit"),
        (signal.SIGSEGV, "model_crashed"),
        (signal.SIGABRT, "model_crashed"),
        (signal.SIGILL, "model_crashed"),
        (signal.SIGFPE, "model_crashed"),
        (signal.SIGSYS, "sandbox_violation"),
        (signal.SIGXFSZ, "sandbox_violation"),
    ],
)
def test_each_signal_has_a_failure_code(number: int, code: str) -> None:
    ending = of_exit(number, LIMITS, is_upload=True, out_of_memory_kills=0)
    assert isinstance(ending, Failed)
    assert ending.code == code
    assert ending.code in FAILURES


def test_a_kill_from_outside_is_not_a_failure_of_the_model() -> None:
    assert isinstance(of_exit(signal.SIGKILL, LIMITS, is_upload=True, out_of_memory_kills=0), Died)


def test_a_kill_by_the_kernel_for_memory_is_a_memory_limit() -> None:
    ending = of_exit(signal.SIGKILL, LIMITS, is_upload=True, out_of_memory_kills=1)
    assert isinstance(ending, Failed)
    assert ending.code == "memory_limit"


def test_an_exit_without_a_result_is_an_internal_failure() -> None:
    ending = of_exit(70 << 8, LIMITS, is_upload=False, out_of_memory_kills=0)
    assert ending == Failed("internal", "the process that ran the model ended with 70 and no result")


def test_the_message_of_a_limit_contains_its_size() -> None:
    ending = of_exit(signal.SIGXCPU, LIMITS, is_upload=True, out_of_memory_kills=0)
    assert isinstance(ending, Failed)
    assert "7 seconds" in ending.detail
    assert "2.5 seconds" in time_limit(LIMITS).detail
