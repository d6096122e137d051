"""The caller's arguments: in the original's structure or one after another, and held to the declared shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from gradinspect.contracts.exported.expressions import Expression, ExpressionError, evaluate, symbols
from gradinspect.contracts.exported.program import GivenTensor, Program, Tree
from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.exported.interpreter import Result

Structure = Any  # tensors in tuples, lists, dicts and dataclasses


def flat_arguments(
    program: Program, positional: Sequence[Structure], keywords: Mapping[str, Structure]
) -> list[Result]:
    """Return one value for each of the program's inputs.

    Args:
        program: with the structure of its arguments.
        positional: as the original's forward takes them, or all of its tensors one after another.
        keywords: likewise.

    Raises:
        InspectionError: `data_mismatch`, when the arguments are others.
    """
    tensors = [given for given in program.inputs if isinstance(given, GivenTensor)]
    if not keywords and len(positional) == len(tensors) and all(isinstance(x, torch.Tensor) for x in positional):
        left = iter(positional)
        return [next(left) if isinstance(given, GivenTensor) else given.constant for given in program.inputs]
    arguments = program.input_tree
    by_keyword = arguments.children[1]
    optional = dict(zip(by_keyword.keys, by_keyword.children, strict=True))
    unknown = [name for name in keywords if name not in optional]
    names = ", ".join(given.name for given in tensors)
    if unknown or len(positional) != len(arguments.children[0].children) or len(keywords) != len(optional):
        count = len(positional) + len(keywords)
        raise InspectionError(
            "data_mismatch", f"the program was exported with {len(tensors)} tensors ({names}), and is given {count}"
        )
    leaves = [
        leaf
        for child, value in zip(arguments.children[0].children, positional, strict=True)
        for leaf in _leaves(child, value)
    ]
    leaves += [leaf for key, child in optional.items() for leaf in _leaves(child, keywords[str(key)])]
    return leaves


def check_tensors(program: Program, values: Sequence[Result], dtypes: Mapping[torch.dtype, torch.dtype]) -> None:
    """Compare the caller's tensors with the shapes and element types that the program was exported for.

    Raises:
        InspectionError: `data_mismatch`, naming the input, its shape and the declared one.
    """
    symbols_known: dict[str, int] = {}
    pairs = [
        (given, value) for given, value in zip(program.inputs, values, strict=True) if isinstance(given, GivenTensor)
    ]
    for given, value in pairs:
        if not isinstance(value, torch.Tensor):
            raise InspectionError("data_mismatch", f"the input {given.name!r} is {type(value).__name__}, no tensor")
        if value.dim() != len(given.sizes):
            raise _misfit(program, given, value)
        for size, expression in zip(value.shape, given.sizes, strict=True):
            _learn(expression, size, symbols_known)
    for given, value in pairs:
        declared: torch.dtype = getattr(torch, given.dtype)
        if value.dtype != dtypes.get(declared, declared):
            raise InspectionError(
                "data_mismatch",
                f"the input {given.name!r} is {_name(value.dtype)}; the program was exported for {given.dtype}",
            )
        for size, expression in zip(value.shape, given.sizes, strict=True):
            if not _fits(program, expression, size, symbols_known):
                raise _misfit(program, given, value)


def unflatten(tree: Tree, leaves: Iterator[Result]) -> Structure:
    """Return results in the structure that the original returned."""
    if tree.kind == "leaf":
        return next(leaves)
    children = [unflatten(child, leaves) for child in tree.children]
    if tree.kind == "dict":
        return dict(zip(tree.keys, children, strict=True))
    return children if tree.kind == "list" else tuple(children)


def describe_sizes(program: Program, given: GivenTensor) -> str:
    """Write the declared shape of an input: [s31, 7] with s31 from 2 to 64."""
    names = sorted(frozenset().union(*map(symbols, given.sizes)) & program.ranges.keys())
    ranges = [(name, *program.ranges[name]) for name in names]
    texts = [f"{name} from {low}" + (f" to {high}" if high < 2**31 else "") for name, low, high in ranges]
    shape = ", ".join(str(size)[:80] for size in given.sizes)
    return f"[{shape}]{' with ' if texts else ''}{', '.join(texts)}"


def _learn(expression: Expression, size: int, values: dict[str, int]) -> None:
    """Note the value of a symbol from a size that is linear in it, such as 2·s39 + 1."""
    names = symbols(expression) - values.keys()
    if len(names) != 1:
        return
    (name,) = names
    try:
        start = evaluate(expression, {**values, name: 0})
        slope = evaluate(expression, {**values, name: 1}) - start
        if slope:
            values[name] = (size - start) // slope
    except ExpressionError:
        return


def _fits(program: Program, expression: Expression, size: int, values: Mapping[str, int]) -> bool:
    try:
        if evaluate(expression, values) != size:
            return False
    except ExpressionError:
        # Where no input determines a symbol, the operators see what does not fit.
        return not symbols(expression) <= values.keys()
    bounds = [(values[name], program.ranges.get(name)) for name in symbols(expression)]
    return all(bound is None or bound[0] <= value <= bound[1] for value, bound in bounds)


def _misfit(program: Program, given: GivenTensor, value: torch.Tensor) -> InspectionError:
    hint = (
        "" if any(symbols(size) for size in given.sizes) else "; export it with dynamic_shapes to inspect other sizes"
    )
    return InspectionError(
        "data_mismatch",
        f"the input {given.name!r} has the shape {list(value.shape)}; the program was exported for "
        f"{describe_sizes(program, given)}{hint}",
    )


def _leaves(tree: Tree, value: Structure) -> Iterator[Result]:
    """Yield the leaves of a value that has the structure of a tree."""
    if tree.kind == "leaf":
        yield value
        return
    children: list[Structure] | None = None
    if isinstance(value, Mapping) and tree.kind == "dict" and set(value) == set(tree.keys):
        children = [value[key] for key in tree.keys]
    elif isinstance(value, list | tuple) and tree.kind != "dict" and len(value) == len(tree.children):
        children = list(value)
    elif is_dataclass(value) and not isinstance(value, type) and len(fields(value)) == len(tree.children):
        children = [getattr(value, field.name) for field in fields(value)]
    if children is None:
        raise InspectionError("data_mismatch", f"an argument is {type(value).__name__}, and a {tree.kind} was exported")
    for child, inner in zip(tree.children, children, strict=True):
        yield from _leaves(child, inner)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
