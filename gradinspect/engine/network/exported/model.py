"""An exported program as a module: it is called, differentiated and copied as the original was."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradinspect.contracts.exported.program import Program
from gradinspect.engine.network.exported.arguments import Structure, check_tensors, flat_arguments, unflatten
from gradinspect.engine.network.exported.interpreter import Compiled, Result, Surroundings, compile_graph
from gradinspect.engine.network.exported.parts import Part, fill


class ExportedModel(Part):
    """The model of an exported program, with the original's names.

    It runs in the mode in which it was exported, whatever `train` and `eval` say: dropout and running statistics are
    part of the graph. A gradient that a `torch.autograd.Function` of the original defines is lost in the export.

    Args:
        program: from `intake.exported`, which has checked it.
        data: the whole file.

    Raises:
        InspectionError: `unsupported_operator` or `invalid_model`, with the node.
    """

    def __init__(self, program: Program, data: bytes) -> None:
        super().__init__(program.kinds.get("", ""))
        self._shared = _Shared(program, compile_graph(program.graph))
        self._places = fill(self, program, data)
        self._file_dtype = next(self.parameters(), torch.empty(0)).dtype

    @property
    def program(self) -> Program:
        """The program as it is in the file."""
        return self._shared.program

    def uses(self, operator: str) -> bool:
        """Check whether the program runs an operator, by its name without the overload."""
        return operator in self._shared.graph.operators()

    def forward(self, *positional: Structure, **keywords: Structure) -> Structure:
        """Run the program.

        Args:
            positional, keywords: the original's arguments, or all of their tensors one after another.

        Raises:
            InspectionError: `data_mismatch`, when they have other shapes or element types than it was exported for.
        """
        program, graph = self._shared.program, self._shared.graph
        surroundings = self._surroundings()
        given = flat_arguments(program, positional, keywords)
        check_tensors(program, given, surroundings.dtypes)
        arguments: list[Result] = []
        left = iter(given)
        for name in graph.inputs:
            place = self._places.get(name) if name else None
            arguments.append(_stored(*place) if place is not None else next(left))
        results = graph.run(arguments, surroundings)
        by_name = dict(zip(graph.inputs, arguments, strict=True))
        with torch.no_grad():
            for mutation in program.mutations:
                by_name[mutation.target].copy_(results[mutation.position])
        return unflatten(program.output_tree, iter([results[position] for position in program.outputs]))

    def _surroundings(self) -> Surroundings:
        first = next(self.parameters(), None)
        if first is None:
            return Surroundings(next(self.buffers(), torch.empty(0)).device, {})
        return Surroundings(first.device, _converted(self._file_dtype, first.dtype))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all copies of a model share, because nothing changes it."""

    program: Program
    graph: Compiled

    def __deepcopy__(self, memo: dict[int, object]) -> _Shared:
        return self


def _converted(before: torch.dtype, now: torch.dtype) -> dict[torch.dtype, torch.dtype]:
    """Return what the element types that are written in a graph become once the model was converted.

    The file does not tell the dtype of `zeros(…, dtype=x.dtype)` from that of an author's `.float()`, so that in a
    converted model both follow the parameters.
    """
    if before == now:
        return {}
    narrower = (torch.float16, torch.bfloat16, torch.float32) if now == torch.float64 else ()
    return dict.fromkeys((before, *narrower), now)


def _stored(part: Part, leaf: str) -> torch.Tensor:
    tensor = part._parameters.get(leaf)
    return tensor if tensor is not None else part.get_buffer(leaf)
