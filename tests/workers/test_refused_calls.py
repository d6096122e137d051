"""Only the kernel's refusal of a system call is a `sandbox_violation`, not the words of a model."""

from __future__ import annotations

import pytest
import torch

from gradinspect.contracts.problems import InspectionError
from workers.child.runner import _forbidden_act


def wrapped(cause: BaseException) -> InspectionError:
    error = InspectionError("model_error", f"the model raised {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause",
    [
        PermissionError(1, "Operation not permitted", "/etc/passwd"),
        RuntimeError("unable to open file </tmp/x> in read-write mode: Operation not permitted (1)"),
        RuntimeError("Traceback of TorchScript:\nRuntimeError: cannot open file: Operation not permitted\n"),
    ],
    ids=["Python", "C++", "TorchScript's operator"],
)
def test_a_refused_system_call_is_a_violation(cause: BaseException) -> None:
    for error in (cause, wrapped(cause)):
        frame = _forbidden_act(error)
        assert frame is not None
        assert frame.code == "sandbox_violation"


@pytest.mark.parametrize(
    "cause",
    [
        torch.jit.Error("builtins.ValueError: open: Operation not permitted (1)"),
        RuntimeError("expected rounding_mode to be one of None but found 'Operation not permitted'"),
        InspectionError("model_error", "the model raised ValueError: open: Operation not permitted (1)"),
    ],
    ids=["a raise of a script", "a quoted argument", "the engine's own error"],
)
def test_words_of_a_model_are_no_violation(cause: BaseException) -> None:
    assert _forbidden_act(cause) is None
    assert _forbidden_act(wrapped(cause)) is None
