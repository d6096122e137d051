"""The interpreter: one step for each node, with torch's own operators, so that autograd records what it always records.

Each step calls the overload that the original called when it was exported; the same kernels give the same numbers.
Values are dropped after their last use, as Python drops them in the original's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from gradinspect.contracts.exported.program import (
    Device,
    DType,
    Graph,
    MemoryFormat,
    Node,
    Place,
    Ref,
    Strided,
    Value,
)
from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.exported.operators import number_function, overload_of, split_arguments

Result = Any  # a tensor, a number, or a list of tensors


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the graph's constants mean where the model runs.

    Attributes:
        device: of the parameters, in place of every device in the file.
        dtypes: element types of the file → those that the model was converted to.
    """

    device: torch.device
    dtypes: Mapping[torch.dtype, torch.dtype]


@dataclass(frozen=True, slots=True)
class Step:
    """A node that is ready to run.

    Attributes:
        node: of the file.
        call: receives the arguments; of a higher-order operator None.
        positions, keywords: indices of the node's arguments.
        values: of all arguments; a graph is compiled.
        forgets: values that nothing uses after this step.
    """

    node: Node
    call: Callable[..., Result] | None
    positions: tuple[int, ...]
    keywords: dict[str, int]
    values: tuple[Any, ...]
    forgets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A graph that is ready to run. It holds no tensor, and a copy of a model shares it."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]

    def __deepcopy__(self, memo: dict[int, object]) -> Compiled:
        return self

    def run(self, arguments: Sequence[Result], surroundings: Surroundings) -> tuple[Result, ...]:
        """Run the graph; return its results."""
        values = dict(zip(self.inputs, arguments, strict=True))
        for step in self.steps:
            run_step(step, values, surroundings)
        return tuple(_resolved(output, values, surroundings) for output in self.outputs)

    def operators(self) -> Iterator[str]:
        """Yield the names of the operators of this graph and those in it."""
        for step in self.steps:
            yield step.node.operator
            for value in step.values:
                if isinstance(value, Compiled):
                    yield from value.operators()


def compile_graph(graph: Graph) -> Compiled:
    """Look up all operators of a graph.

    Raises:
        InspectionError: `unsupported_operator` or `invalid_model`, with the node.
    """
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in [*_made(node), *(name for argument in node.arguments for name in _names(argument.value))]:
            last[name] = index
    for name in (name for output in graph.outputs for name in _names(output)):
        last.pop(name, None)
    forgets: dict[int, list[str]] = {}
    for name, index in last.items():
        forgets.setdefault(index, []).append(name)
    steps = tuple(_compiled(node, tuple(forgets.get(index, ()))) for index, node in enumerate(graph.nodes))
    return Compiled(graph.inputs, steps, graph.outputs)


def run_step(step: Step, values: dict[str, Result], surroundings: Surroundings) -> None:
    """Run one node. Its frame tells where in the author's code a pass is (see `place_of`)."""
    arguments = [_resolved(value, values, surroundings) for value in step.values]
    if step.call is None:
        result = _run_graphs(step.node, arguments, surroundings)
    else:
        positional = [arguments[index] for index in step.positions]
        result = step.call(*positional, **{name: arguments[index] for name, index in step.keywords.items()})
    del arguments
    _keep(step.node, result, values)
    for name in step.forgets:
        values.pop(name, None)


RUNS_STEP: CodeType = run_step.__code__


def place_of(frame: FrameType) -> Place | None:
    """Return the place of the node that a frame runs; None for a frame that runs none."""
    if frame.f_code is not RUNS_STEP:
        return None
    step = frame.f_locals["step"]
    assert isinstance(step, Step)
    return step.node.place


def _compiled(node: Node, forgets: tuple[str, ...]) -> Step:
    values = tuple(_prepared(argument.value) for argument in node.arguments)
    if node.namespace == "higher_order":
        return Step(node, None, (), {}, values, forgets)
    if node.namespace == "number":
        positions = tuple(range(len(values)))
        return Step(node, number_function(node.operator), positions, {}, values, forgets)
    overload = overload_of(node)
    by_position, keywords = split_arguments(node, overload)
    return Step(node, overload, tuple(by_position), keywords, values, forgets)


def _prepared(value: Value) -> Any:
    return compile_graph(value) if isinstance(value, Graph) else value


def _resolved(value: Any, values: Mapping[str, Result], surroundings: Surroundings) -> Result:
    """Return an argument as torch takes it."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, tuple):
        return [_resolved(item, values, surroundings) for item in value]
    if isinstance(value, DType):
        dtype: torch.dtype = getattr(torch, value.name)
        return surroundings.dtypes.get(dtype, dtype)
    if isinstance(value, Device):
        return surroundings.device
    if isinstance(value, MemoryFormat):
        return getattr(torch, value.name)
    return torch.strided if isinstance(value, Strided) else value


def _keep(node: Node, result: Result, values: dict[str, Result]) -> None:
    """Store a node's results under their names."""
    names = node.outputs
    is_single = len(names) == 1 and (node.namespace != "higher_order" or node.is_one_tensor)
    parts = [result] if is_single else list(result) if isinstance(result, tuple | list) else [result]
    if is_single or not names:
        parts = parts[: len(names)]
    if len(parts) != len(names):
        raise _wrong(node, f"has {len(names)} results, and its operator returned {len(parts)}")
    for name, part in zip(names, parts, strict=True):
        if isinstance(name, str):
            values[name] = part
        elif isinstance(name, tuple):
            if not isinstance(part, tuple | list) or len(part) != len(name):
                raise _wrong(node, f"has a list of {len(name)} results, and its operator returned another number")
            values.update(zip(name, part, strict=True))


def _run_graphs(node: Node, arguments: list[Result], surroundings: Surroundings) -> Result:
    """Run a higher-order operator."""
    given = [value for value, argument in zip(arguments, node.arguments, strict=True) if not argument.is_keyword]
    try:
        graph, operands, context = _called(node.operator, given, surroundings)
    except (TypeError, ValueError):
        raise _wrong(node, f"gives {node.target} other arguments than it takes") from None
    if not isinstance(graph, Compiled) or len(operands) != len(graph.inputs):
        raise _wrong(node, f"gives {node.target} other arguments than its graph takes")
    with context:
        results = graph.run(operands, surroundings)
    return results[0] if node.is_one_tensor and len(results) == 1 else results


def _called(
    operator: str, given: list[Result], surroundings: Surroundings
) -> tuple[Any, Sequence[Result], AbstractContextManager[object]]:
    """Return the graph that a higher-order operator runs, what with, and in which context."""
    if operator == "cond":
        condition, true, false, operands = given
        return (true if bool(condition) else false), operands, nullcontext()
    if operator == "wrap_with_set_grad_enabled":
        enabled, graph, *operands = given
        return graph, operands, torch.set_grad_enabled(bool(enabled))
    if operator == "wrap_with_autocast":
        _, dtype, enabled, cache, graph, *operands = given
        context = torch.autocast(
            surroundings.device.type,
            dtype=dtype,
            enabled=bool(enabled),
            cache_enabled=None if cache is None else bool(cache),
        )
        return graph, operands, context
    if operator == "invoke_subgraph":
        graph, _, *operands = given
        return graph, operands, nullcontext()
    assert operator == "tag_activation_checkpoint"  # recomputing would give the same numbers
    graph, *operands = given
    return graph, operands, nullcontext()


def _made(node: Node) -> Iterator[str]:
    for output in node.outputs:
        if isinstance(output, str):
            yield output
        elif output is not None:
            yield from output


def _names(value: Value) -> Iterator[str]:
    """Yield the values that an argument refers to; a graph refers to its own alone."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, tuple):
        for item in value:
            yield from _names(item)


def _wrong(node: Node, what: str) -> InspectionError:
    return InspectionError("invalid_model", f"node {node.name[:80]!r} {what}")
