"""Our second derivatives compared with finite differences and with torch's own, in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from threading import Event, Thread

import pytest
import torch
from torch.nn import functional

from gradinspect.engine.autograd import installed, short_second_derivatives
from gradinspect.engine.autograd.installed import installed_rules
from tests.support.networks.section_inputs import normal, scripted

real_check = installed._is_single_threaded  # a fixture replaces it in every test

Function = Callable[..., torch.Tensor]
Case = tuple[Function, tuple[torch.Tensor | None, ...]]

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed).requires_grad_()


def batch_normalised(shape: tuple[int, ...], *, training: bool, affine: bool) -> Case:
    mean, variance = normal(3, seed=5), normal(3, seed=6).square() + 0.5

    def function(x: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor:
        return functional.batch_norm(x, mean.to(x), variance.to(x), w, b, training, 0.0, 1e-3)

    return function, (leaf(*shape), leaf(3, seed=1) if affine else None, leaf(3, seed=2) if affine else None)


def layer_normalised(*, scaled: bool, shifted: bool) -> Case:
    w, b = leaf(4, 3, seed=1) if scaled else None, leaf(4, 3, seed=2) if shifted else None
    return lambda x, w, b: functional.layer_norm(x, (4, 3), w, b), (leaf(5, 2, 4, 3), w, b)


def convolved(axes: int, groups: int, stride: int, padding: int, dilation: int, *, transposed: bool) -> Case:
    x, sizes = leaf(2, 4, *[5] * axes), [3] * axes
    bias = leaf(6, seed=2)
    if transposed:

        def backwards(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return TRANSPOSED[axes - 1](x, w, b, stride, padding, stride - 1, groups, dilation)

        return backwards, (x, leaf(4, 6 // groups, *sizes, seed=1), bias)

    def forwards(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return CONVOLUTIONS[axes - 1](x, w, b, stride, padding, dilation, groups)

    return forwards, (x, leaf(6, 4 // groups, *sizes, seed=1), bias)


CASES: dict[str, Case] = {
    "relu": (torch.relu, (leaf(5, 7),)),
    "threshold": (lambda x: functional.threshold(x, 0.3, -1.0), (leaf(5, 7),)),
    "gelu": (functional.gelu, (leaf(5, 7),)),
    "gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), (leaf(5, 7),)),
    "layer norm": layer_normalised(scaled=True, shifted=True),
    "layer norm, scaled": layer_normalised(scaled=True, shifted=False),
    "layer norm, plain": layer_normalised(scaled=False, shifted=False),
    **{
        f"batch norm {shape}, {training=}, {affine=}": batch_normalised(shape, training=training, affine=affine)
        for shape, training, affine in product([(6, 3), (4, 3, 5), (4, 3, 2, 3)], [True, False], [True, False])
    },
    **{
        f"{axes} axes, {groups=}, {stride=}, {padding=}, {dilation=}, {transposed=}": convolved(
            axes, groups, stride, padding, dilation, transposed=transposed
        )
        for axes in (1, 2, 3)
        for groups, stride, padding, dilation in ((1, 1, 1, 1), (2, 2, 1, 1), (1, 2, 0, 2))
        for transposed in (False, True)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_agree_with_finite_differences(name: str) -> None:
    function, arguments = CASES[name]
    with short_second_derivatives():
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)  # type: ignore[arg-type]  # it passes None on, too


def products(case: Case, cast: torch.dtype) -> Iterator[list[torch.Tensor]]:
    """Yield products with random vectors, for every subset of first derivatives that is differentiated again."""
    function, arguments = case
    cast_arguments = [None if a is None else a.detach().to(cast).requires_grad_() for a in arguments]
    leaves = [a for a in cast_arguments if a is not None]
    output = function(*cast_arguments)
    signal = normal(*output.shape, seed=7).to(cast).requires_grad_()
    slopes = torch.autograd.grad(output, leaves, signal, create_graph=True)
    for chosen in range(1, 2 ** len(slopes)):
        moving = [slope for place, slope in enumerate(slopes) if chosen >> place & 1 and slope.requires_grad]
        along = [normal(*slope.shape, seed=8 + place).to(cast) for place, slope in enumerate(moving)]
        if moving:
            points = [*leaves, signal]
            found = torch.autograd.grad(moving, points, along, retain_graph=True, allow_unused=True)
            yield [torch.zeros_like(x) if part is None else part for x, part in zip(points, found, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_every_part_of_a_product_equals_torchs_own(name: str) -> None:
    expected = list(products(CASES[name], torch.float64))
    with short_second_derivatives():
        ours = list(products(CASES[name], torch.float64))
    for mine, torchs in zip(ours, expected, strict=True):
        for part, truth in zip(mine, torchs, strict=True):
            torch.testing.assert_close(part, truth, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in CASES if "3 axes" not in name])
def test_half_precision_is_accurate_up_to_its_rounding(name: str) -> None:
    truths = list(products(CASES[name], torch.float64))
    with short_second_derivatives():
        rounded = list(products(CASES[name], torch.bfloat16))
    for mine, exact in zip(rounded, truths, strict=True):
        for part, truth in zip(mine, exact, strict=True):
            assert part.dtype is torch.bfloat16
            # Eight bits: each factor is off by up to 2⁻⁹, and some tens of them are added with either sign.
            assert float((part.double() - truth).norm()) <= 0.1 * float(truth.norm()) + 1e-6


def model_products(model: torch.nn.Module) -> list[torch.Tensor]:
    parameters = list(model.parameters())
    slopes = torch.autograd.grad(model(normal(6, 4)).square().mean(), parameters, create_graph=True)
    return list(torch.autograd.grad(slopes, parameters, [torch.ones_like(slope) for slope in slopes]))


def test_the_rules_are_removed_when_the_outermost_block_ends() -> None:
    assert installed_rules() == ()
    with short_second_derivatives():
        with short_second_derivatives():
            assert "convolution_backward" in installed_rules()
        assert "convolution_backward" in installed_rules()
    assert installed_rules() == ()
    x = leaf(3, 4)
    (slope,) = torch.autograd.grad(functional.gelu(x).sum(), x, create_graph=True)
    assert type(slope.grad_fn).__name__ == "GeluBackwardBackward0"  # torch's own


def test_scripted_models_use_the_same_rules() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.LayerNorm(5)).double()
    truth = model_products(model)
    with short_second_derivatives():
        found = model_products(scripted(model))
    for part, expected in zip(found, truth, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-11, atol=1e-13)


def test_nothing_is_installed_while_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_is_single_threaded", real_check)
    done = Event()
    other = Thread(target=done.wait)
    other.start()
    try:
        with short_second_derivatives():
            assert installed_rules() == ()
    finally:
        done.set()
        other.join()


def test_a_process_with_one_thread_installs_the_rules() -> None:
    program = (
        "from gradinspect.engine.autograd.installed import installed_rules, short_second_derivatives\n"
        "with short_second_derivatives():\n"
        "    print(*installed_rules())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "convolution_backward" in done.stdout.split()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_has_no_curvature_far_from_zero(approximate: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-300.0, -60.0, -45.0, 45.0, 60.0, 300.0], dtype=dtype).requires_grad_()
    with short_second_derivatives():
        output = functional.gelu(x, approximate=approximate)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert torch.equal(curvature, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_norm_in_float32_takes_a_signal_in_half_precision(dtype: torch.dtype) -> None:
    x, w, b = leaf(5, 2, 4, 3), leaf(4, 3, seed=1), leaf(4, 3, seed=2)

    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (4, 3), w, b)

    def products_of(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in (x, w, b)]
        slopes = torch.autograd.grad(function(*leaves), leaves, normal(5, 2, 4, 3, seed=7).to(x), create_graph=True)
        along = [normal(*slope.shape, seed=8).to(slope) for slope in slopes]
        return torch.autograd.grad(slopes[:2], leaves[:2], along[:2])

    truth = products_of(x, w, b)
    with short_second_derivatives():
        found = products_of(x.to(dtype), w.float(), b.float())
    assert [part.dtype for part in found] == [dtype, torch.float32]
    for part, exact in zip(found, truth, strict=True):
        # Eight bits in inputs and outputs: 2⁻⁹ each, some tens of them added.
        assert float((part.double() - exact).norm()) <= 0.1 * float(exact.norm())


def test_a_third_derivative_is_refused() -> None:
    x = leaf(3, 4)
    with short_second_derivatives():
        (slope,) = torch.autograd.grad(functional.gelu(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            torch.autograd.grad(slope.sum(), x, create_graph=True)
