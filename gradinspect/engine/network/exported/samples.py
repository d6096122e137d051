"""Inputs drawn for an exported program, which declares their number, shapes and element types itself."""

from __future__ import annotations

import torch

from gradinspect.contracts.exported.expressions import ExpressionError, evaluate, symbols
from gradinspect.contracts.exported.program import GivenTensor, Program
from gradinspect.contracts.problems import InspectionError

DEFAULT_SAMPLES = 128  # where the first axis may vary
MAX_ELEMENTS = 2**31
_FEW = 2  # values of integers that no table bounds: 0 and 1


def draw_inputs(program: Program, samples: int | None, draws: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Draw all inputs: normal values, integers below the size of the table that they index, and masks of ones.

    Args:
        program: declares the inputs.
        samples: of the batch; None: 128 where the first axis may vary, else as the program was exported.
        draws: source of randomness.

    Raises:
        InspectionError: `data_mismatch`, when the program does not take that many samples.
    """
    values = _symbol_values(program, samples)
    tensors = tuple(_draw(given, _shape(given, values), draws) for given in _tensors(program))
    if samples is not None and tensors and (tensors[0].dim() == 0 or tensors[0].shape[0] != samples):
        first = list(tensors[0].shape)
        raise InspectionError(
            "data_mismatch",
            f"{samples} samples were asked for, and the program was exported for inputs of the shape {first}; "
            "export it with dynamic_shapes to inspect other batches",
        )
    return tensors


def _tensors(program: Program) -> list[GivenTensor]:
    return [given for given in program.inputs if isinstance(given, GivenTensor)]


def _symbol_values(program: Program, samples: int | None) -> dict[str, int]:
    """Return a value for each symbol: the number of samples for the batch, else that of the exported example."""
    values: dict[str, int] = {}
    for given in _tensors(program):
        for size, example in zip(given.sizes, given.example, strict=True):
            for name in symbols(size) - values.keys():
                low, high = program.ranges.get(name, (1, example))
                values[name] = example if size.name else max(low, 1)
                values[name] = min(max(values[name], low), high)
    first = next(iter(_tensors(program)), None)
    if first is not None and first.sizes and first.sizes[0].name:
        low, high = program.ranges.get(first.sizes[0].name, (1, DEFAULT_SAMPLES))
        values[first.sizes[0].name] = samples if samples is not None else min(max(DEFAULT_SAMPLES, low), high)
    return values


def _shape(given: GivenTensor, values: dict[str, int]) -> tuple[int, ...]:
    try:
        shape = tuple(evaluate(size, values) for size in given.sizes)
    except ExpressionError as error:
        raise InspectionError(
            "data_mismatch", f"the input {given.name!r} has a size that cannot be drawn: {error}"
        ) from None
    count = 1
    for size in shape:
        count *= size
    if any(size < 0 for size in shape) or count > MAX_ELEMENTS:
        raise InspectionError(
            "data_mismatch", f"the input {given.name!r} has the shape {list(shape)}; give data.inputs"
        )
    return shape


def _draw(given: GivenTensor, shape: tuple[int, ...], draws: torch.Generator) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, given.dtype)
    if dtype is torch.bool or (not dtype.is_floating_point and given.bound is None and "mask" in given.name):
        return torch.ones(shape, dtype=dtype)
    if dtype.is_complex:
        return torch.randn(shape, generator=draws, dtype=torch.complex128).to(dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)
    return torch.randint(0, given.bound or _FEW, shape, generator=draws).to(dtype)
