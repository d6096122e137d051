"""Track where the tensors of a forward pass come from: parameters alone, the inputs, or neither.

The origin is an attribute of the tensor and lives as long as the tensor; addresses would be reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.operator_names import ATEN_LOOKUPS, ATEN_MATRIX_PRODUCTS

DATA = "data"


class State(tuple[ParameterEntry, ...]):
    """Parameters times a constant, such as W·h₀ + b at the first step of a recurrence: they have met no data yet."""


# A tensor's origin: the inputs (DATA), or the parameters that alone determine it.
Mark = str | tuple[ParameterEntry, ...]


class Origins:
    """Separates parameters and data among the arguments of an operation, and marks what it returns.

    Args:
        parameters: the model's parameters.
        inputs: the tensors that enter the model.
    """

    def __init__(self, parameters: ParameterIndex, inputs: Iterable[torch.Tensor]) -> None:
        self._parameters = parameters
        self._inputs = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def sort(
        self, tensors: Iterable[torch.Tensor], operation: str
    ) -> tuple[list[ParameterEntry], torch.Tensor | None, Mark | None]:
        """Split an operation's tensors into parameters and the first tensor that carries data.

        Returns:
            The parameters, the data, and the mark for the operation's output.
        """
        entries: list[ParameterEntry] = []
        states: list[ParameterEntry] = []
        data: torch.Tensor | None = None
        has_constant = False
        for tensor in tensors:
            mark = self._mark_of(tensor)
            if mark is DATA or (mark is None and (tensor.grad_fn is not None or self._is_input(tensor))):
                data = tensor if data is None else data
            elif mark is None:
                has_constant |= tensor.is_floating_point()
            else:
                assert isinstance(mark, tuple)
                (states if isinstance(mark, State) else entries).extend(mark)
        if data is not None or operation in ATEN_LOOKUPS:
            return _distinct(entries), data, DATA
        if states or (has_constant and entries and operation in ATEN_MATRIX_PRODUCTS):
            entries = _distinct([*entries, *states])
            return entries, None, State(entries)
        entries = _distinct(entries)
        return entries, None, tuple(entries) if entries else None

    def pass_on(self, source: torch.Tensor, output: Any, operation: str) -> None:  # Any: results of ATen operations
        """Give a view of a tensor, or a copy in another order, the tensor's mark."""
        mark: Mark | None = getattr(source, "_gradinspect", None)
        if mark is None:
            entry = self._parameters.of_object(source)
            if entry is not None:
                mark = (entry,)
            elif source.layout is torch.strided and source.untyped_storage().data_ptr() in self._inputs:
                mark = DATA
        if mark is not None:
            self.mark(output, operation, mark)

    def mark(self, output: Any, operation: str, mark: Mark) -> None:
        """Mark what an operation returned."""
        if operation.endswith("_like") or operation.startswith("new_"):
            return  # a constant that takes only its shape from its arguments
        for tensor in (output,) if isinstance(output, torch.Tensor) else tensors_in((output,)):
            tensor._gradinspect = mark  # type: ignore[attr-defined]  # our own attribute

    def _mark_of(self, tensor: torch.Tensor) -> Mark | None:
        mark: Mark | None = getattr(tensor, "_gradinspect", None)
        if mark is None:
            entry = self._parameters.of_object(tensor) or self._parameters.of_memory(tensor)
            return None if entry is None else (entry,)
        return mark

    def _is_input(self, tensor: torch.Tensor) -> bool:
        if tensor.requires_grad:
            return True
        return tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in self._inputs


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield all tensors in nested tuples and lists; other values are skipped."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def _distinct(entries: list[ParameterEntry]) -> list[ParameterEntry]:
    return list(dict.fromkeys(entries)) if len(entries) > 1 else entries
