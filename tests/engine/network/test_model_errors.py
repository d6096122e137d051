"""What a model or a loss raises arrives as `model_error`, in its own words and with its line; misfits stay misfits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect import inspect
from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.model_errors import MOST_WORDS, clean
from tests.support.networks.inspected import scripted

X, Y = torch.randn(12, 6), torch.arange(12) % 3


class Model(nn.Module):
    """Runs a function of itself and of its input."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(6, 3), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


class Scripted(nn.Module):
    """Raises in TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(0) > 4:
            raise ValueError("batch too big")
        output: torch.Tensor = self.layer(x)
        return output


class Asserting(Scripted):
    """Asserts in TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.size(0) < 4, "no more than 4 samples"
        output: torch.Tensor = self.layer(x)
        return output


class Indexing(Scripted):
    """Reads a list beyond its end in TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(x) * [1, 2][x.size(0)]
        return output


class FailingBackward(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(_ctx: Any, _gradient: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such gradient")


def failure(model: nn.Module, x: Any = X, y: torch.Tensor | None = Y, **options: Any) -> InspectionError:
    with pytest.raises(InspectionError) as caught:
        inspect(model, x, y, **options)
    return caught.value


def raising(error: Exception) -> Callable[[Any, torch.Tensor], Any]:
    def function(_self: Any, _x: torch.Tensor) -> Any:
        raise error

    return function


def overwritten(self: Any, x: torch.Tensor) -> torch.Tensor:
    h = torch.sigmoid(self.layer(x))
    h.mul_(2)
    return h


def failing_backward(self: Any, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = FailingBackward.apply(self.layer(x))  # type: ignore[no-untyped-call]  # untyped in torch
    return output


RAISED: dict[str, tuple[Callable[[Any, torch.Tensor], Any], str]] = {
    "a raise": (raising(ValueError("wrong height")), "the model raised ValueError: wrong height ("),
    "a raise with words of a shape": (raising(RuntimeError("shapes must match")), "raised RuntimeError: shapes must"),
    "a division": (lambda s, x: s.layer(x) * (1 / 0), "raised ZeroDivisionError: division by zero ("),
    "a list": (lambda s, x: s.layer(x) * [1][len(x)], "raised IndexError: list index out of range ("),
    "an attribute": (lambda s, _x: s.nothing, "raised AttributeError: 'Model' object has no attribute 'nothing' ("),
    "a dictionary": (lambda _s, _x: {"other": 0}["key"], "raised KeyError: 'key' ("),
    "an iterator": (lambda _s, _x: next(iter(())), "raised StopIteration ("),
    "recursion": (lambda s, x: s(x), "raised RecursionError: maximum recursion depth exceeded"),
    "a part called with too little": (lambda s, _x: s.layer(), "raised TypeError: Linear.forward() missing 1 required"),
    "the backward pass": (failing_backward, "the backward pass raised KeyError: 'no such"),
    "an overwritten value": (overwritten, "the backward pass raised RuntimeError: one of the variables needed"),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_a_model_raises_is_an_error_of_the_model(name: str) -> None:
    function, words = RAISED[name]
    error = failure(Model(function))
    assert error.code == "model_error"
    assert words in error.detail


def test_the_line_is_the_innermost_of_the_callers_code() -> None:
    detail = failure(Model(raising(ValueError("no")))).detail
    assert f"{__file__[-40:]}, line " in detail
    assert "in function: raise error)" in detail


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Scripted, "the model raised ValueError: batch too big"),
        (Asserting, "the model raised AssertionError: no more than 4 samples"),
        (Indexing, "the model raised RuntimeError: list index out of range"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_a_script_raises_is_an_error_of_the_model(model: type[nn.Module], words: str) -> None:
    error = failure(scripted(model()))
    assert error.code == "model_error"
    assert words in error.detail
    assert "test_model_errors.py, line " in error.detail
    assert "in forward: " in error.detail


MISFITS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a width": (lambda: nn.Linear(9, 3), X),
    "channels": (lambda: nn.Conv2d(3, 3, 3), torch.randn(2, 4, 8, 8)),
    "a dtype": (lambda: nn.Linear(6, 3), X.double()),
    "an index": (lambda: nn.Sequential(nn.Embedding(3, 3), nn.Flatten()), torch.full((12, 1), 5)),
    "a batch of one": (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), X[:1]),
    "an argument too many": (lambda: nn.Sequential(nn.Linear(6, 3)), (X, X)),
    "a view": (lambda: Model(lambda s, x: s.layer(x).view(7, 7)), X),
    "a scripted width": (lambda: scripted(nn.Sequential(nn.Linear(9, 3))), X),
    "a scripted argument too many": (lambda: scripted(nn.Sequential(nn.Linear(6, 3))), (X, X)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_data_that_do_not_fit_an_operation_stay_a_mismatch(name: str) -> None:
    make, inputs = MISFITS[name]
    error = failure(make(), inputs)
    assert error.code == "data_mismatch"
    assert "the model does not take inputs " in error.detail


def test_what_a_loss_raises_is_an_error_of_the_model_with_its_line() -> None:
    def loss(output: torch.Tensor, _target: torch.Tensor | None) -> torch.Tensor:
        first, second, third, fourth = output[:2]
        value: torch.Tensor = first + second + third + fourth
        return value

    error = failure(nn.Linear(6, 3), loss=loss)
    assert error.code == "model_error"
    assert "the loss raised ValueError: not enough values to unpack (expected 4, got 2) (" in error.detail
    assert "in loss: first, second" in error.detail


def test_a_loss_that_does_not_take_the_target_is_a_mismatch() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return functional.cross_entropy(output, target[:5])

    error = failure(nn.Linear(6, 3), loss=loss)
    assert error.code == "data_mismatch"
    assert "the loss does not take the output float32[12, 3] and the target int64[12]: ValueError: " in error.detail


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda _output, _target: 3.0, "the loss returned float, not a tensor"),
        (lambda output, _target: output, "the loss returned float32[12, 3], not one real number"),
        (lambda output, _target: output.sum() * 1j, "the loss returned complex64[], not one real number"),
    ],
    ids=["a number", "a matrix", "a complex number"],
)
def test_a_loss_has_to_return_one_real_number(loss: Any, words: str) -> None:
    error = failure(nn.Linear(6, 3), loss=loss)
    assert (error.code, error.detail) == ("model_error", words)


@pytest.mark.parametrize("loss", ["output_mean", "random_cotangent", "mse", "cross_entropy", "huber"])
def test_a_complex_output_is_named(loss: Any) -> None:
    model = Model(lambda s, x: torch.complex(s.layer(x), s.layer(x)))
    error = failure(model, y=Y if loss == "cross_entropy" else None, loss=loss)
    assert error.code == "data_mismatch"
    assert f"the loss {loss} takes real numbers, and the output is complex64" in error.detail


def test_the_words_of_a_model_are_bounded_and_cannot_control_a_terminal() -> None:
    detail = failure(Model(raising(ValueError("\x1b[2J\u202e red\r\n" + "long " * 10_000)))).detail
    assert detail.isprintable()
    assert len(detail) < MOST_WORDS + 400
    assert len(clean("x" * 1000)) == MOST_WORDS


def test_an_exception_that_cannot_be_written_is_named_by_its_type() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "the model raised SilentError (" in failure(Model(raising(SilentError()))).detail


def test_a_failed_allocation_is_no_error_of_the_model() -> None:
    assert failure(Model(raising(MemoryError()))).code == "memory_limit"


def test_frozen_files_get_the_reason_why_they_have_no_gradient() -> None:
    script = scripted(nn.Sequential(nn.Linear(6, 3)).eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen_models = [torch.jit.freeze(script), torch.jit.optimize_for_inference(script)]
    for frozen in frozen_models:
        error = failure(frozen)
        assert error.code == "no_gradient"
        assert "save it before torch.jit.freeze" in error.detail


class Nested(nn.Module):
    """A layer inside of modules inside of modules."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.block: nn.Module = Nested(depth - 1) if depth else nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


def test_deeply_nested_modules_are_measured_and_longer_names_refused() -> None:
    assert inspect(Nested(60), X, Y).parameters[0].name.count("block") == 61
    error = failure(Nested(150))
    assert error.code == "invalid_model"
    assert "a parameter has a name of 912 characters" in error.detail


def test_many_axes_and_many_parameters_of_one_call_are_measured() -> None:
    def long(self: Any, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(x.reshape(12, *[1] * 20, 6)).reshape(12, 3)
        return output

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList([torch.randn(6, 3) / 50 for _ in range(1500)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.stack(list(self.parts)).sum(0)

    assert len(inspect(Model(long), X, Y).layers[0].output_shape) == 22
    assert len(inspect(Summed(), X, Y).layers[0].parameters) == 1500
