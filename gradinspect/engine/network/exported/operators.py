"""The functions behind the operators of an exported program: torch's own overloads, and arithmetic of sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from gradinspect.contracts.exported.program import Node
from gradinspect.contracts.problems import InspectionError

Number = int | float | bool
MAX_INTEGER = 2**63 - 1
MAX_EXPONENT = 64
# What an operator of an exported program may return; TorchScript's functions on texts and lists return other types.
_RESULTS = frozenset({"Tensor", "number", "int", "SymInt", "float", "SymFloat", "bool", "SymBool", "Scalar"})


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) > MAX_EXPONENT and abs(base) > 1:
        raise OverflowError(f"{base} to the power of {exponent} does not fit in 64 bits")
    return base**exponent


def _shift_left(value: int, count: int) -> int:
    if not 0 <= count <= MAX_EXPONENT:
        raise OverflowError(f"a shift by {count} bits does not fit in 64 bits")
    return value << count


_NUMBERS: dict[str, Callable[..., Any]] = {  # Any: numbers of all kinds
    "_operator.pow": _power,
    "_operator.lshift": _shift_left,
    "math.trunc": math.trunc,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_ite": lambda condition, chosen, other: chosen if condition else other,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sqrt": math.sqrt,
    "torch._sym_sqrt": math.sqrt,
}


def number_function(name: str) -> Callable[..., Number]:
    """Return the function of an operator on sizes; its results are bounded.

    >>> number_function("_operator.floordiv")(7, 2)
    3
    """
    function = _NUMBERS[name] if name in _NUMBERS else getattr(operator, name.removeprefix("_operator."))

    def bounded(*operands: Number) -> Number:
        if not all(isinstance(operand, int | float) for operand in operands):
            raise TypeError(f"{name} takes numbers")
        result: Number = function(*operands)
        if isinstance(result, int) and abs(result) > MAX_INTEGER:
            raise OverflowError(f"the result of {name} does not fit in 64 bits")
        return result

    return bounded


def overload_of(node: Node) -> torch._ops.OpOverload:
    """Return torch's overload of an ATen operator.

    Raises:
        InspectionError: `unsupported_operator`, when this torch has none of that name, or it is no function of tensors.
    """
    packet = getattr(torch.ops.aten, node.operator, None)
    overload = getattr(packet, node.overload, None) if packet is not None else None
    if not isinstance(overload, torch._ops.OpOverload):
        raise _unsupported(node, f"torch {torch.__version__} has no such operator")
    if not all(_is_result(str(result.type)) for result in overload._schema.returns):
        raise _unsupported(node, "it is no function of tensors")
    return overload


def split_arguments(node: Node, overload: torch._ops.OpOverload) -> tuple[list[int], dict[str, int]]:
    """Return which of a node's arguments are passed by position and which by keyword, as indices.

    Raises:
        InspectionError: `invalid_model`, when the operator has no such argument.
    """
    given = {argument.name: index for index, argument in enumerate(node.arguments)}
    positions: list[int] = []
    keywords: dict[str, int] = {}
    for known in overload._schema.arguments:
        index = given.pop(known.name, None)
        if index is None:
            continue
        is_next = not keywords and not known.kwarg_only and len(positions) == _position(overload, known.name)
        if is_next:
            positions.append(index)
        else:
            keywords[known.name] = index
    if given:
        raise InspectionError(
            "invalid_model", f"node {node.name[:80]!r}: {node.target} has no argument {next(iter(given))[:80]!r}"
        )
    return positions, keywords


def _position(overload: torch._ops.OpOverload, name: str) -> int:
    return next(index for index, known in enumerate(overload._schema.arguments) if known.name == name)


def _is_result(kind: str) -> bool:
    return kind.removeprefix("List[").removeprefix("Optional[").rstrip("]") in _RESULTS


def _unsupported(node: Node, reason: str) -> InspectionError:
    return InspectionError(
        "unsupported_operator", f"node {node.name[:80]!r}: the operator {node.target} is not allowed: {reason}"
    )
