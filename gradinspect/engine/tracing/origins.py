"""Track where the tensors of a forward pass come from: parameters alone, the inputs, or neither.

The origin of a result is an attribute of the tensor and lives as long as the tensor; addresses would be reused. A write
into memory that exists already (`buffer[:, :8] = x`) is noted for the storage, because every view of it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.operator_names import (
    ATEN_BIAS_OR_GAIN,
    ATEN_LAYERS,
    ATEN_LOOKUPS,
    ATEN_RANDOM,
    ATEN_WITH_WEIGHT_OPERAND,
)

DATA = "data"
# Made in the forward pass from random numbers or from values outside torch, with an axis for samples: the input of a
# generator, or the inputs after a visit to NumPy. It counts as data where a layer takes it, and as a constant where
# it makes a weight (a Bayesian layer's mean + deviation·noise).
FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class Made:
    """Origin of a tensor that is computed from parameters and constants, without data.

    Attributes:
        entries: the parameters.
        has_met_constant: whether a layer has applied them to a constant, as in W·h₀ + b at the first step of a
            recurrence: the result is no weight that the next operation applies to data.
        is_parameter: whether it has the values of one parameter, in whatever shape and precision.
    """

    entries: tuple[ParameterEntry, ...]
    has_met_constant: bool = False
    is_parameter: bool = False


# A tensor's origin: DATA, FRESH, or the parameters that determine it.
Mark = str | Made


@dataclass(frozen=True, slots=True)
class Sources:
    """What an operation takes.

    Attributes:
        entries: the parameters that it applies to `data`.
        data: the first tensor that comes from the inputs. Without one, the tensor that a layer's weights are applied
            to, though it is a constant or made of parameters.
        mark: origin of the result; None for constants.
        has_computed_weight: whether one of the parameters enters as a function of it.
    """

    entries: list[ParameterEntry]
    data: torch.Tensor | None
    mark: Mark | None
    has_computed_weight: bool = False


class Origins:
    """Separates parameters and data among the arguments of an operation, and marks what it returns.

    Args:
        parameters: the model's parameters.
        inputs: the tensors that enter the model.
        samples: number of samples in the batch.
    """

    def __init__(self, parameters: ParameterIndex, inputs: Iterable[torch.Tensor], samples: int) -> None:
        self._parameters = parameters
        self._inputs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self._samples = samples
        self._of_entry: dict[ParameterEntry, Made] = {}
        self._written: WeakKeyDictionary[torch.UntypedStorage, Mark] = WeakKeyDictionary()

    def sort(self, tensors: Sequence[torch.Tensor], operation: str) -> Sources:
        """Split an operation's tensors into parameters and the first tensor that carries data."""
        if operation.endswith("_") and tensors and self._parameters.of_memory(tensors[0]) is not None:
            return Sources([], None, None)  # it changes a parameter, such as an embedding with `max_norm`
        made: list[tuple[torch.Tensor, Made]] = []
        data: torch.Tensor | None = None
        fresh: torch.Tensor | None = None
        constant: torch.Tensor | None = None
        for tensor in tensors:
            mark = self._mark_of(tensor)
            if mark is DATA:
                data = tensor if data is None else data
            elif mark is FRESH:
                fresh = tensor if fresh is None else fresh
            elif isinstance(mark, Made):
                made.append((tensor, mark))
            elif constant is None and (tensor.is_floating_point() or tensor.is_complex()):
                constant = tensor
        if data is not None or operation in ATEN_LOOKUPS:
            return _applied(made, data, operation)
        if not made:
            return Sources([], None, None if fresh is None else FRESH)
        if fresh is not None and (operation in ATEN_LAYERS or all(fresh.numel() > own.numel() for own, _ in made)):
            return _applied(made, fresh, operation)
        return _without_data(made, fresh if fresh is not None else constant, operation)

    def pass_on(self, source: torch.Tensor, output: Any, operation: str) -> None:  # Any: results of ATen operations
        """Give a view of a tensor, or a copy in another order, the tensor's mark."""
        mark: Mark | None = getattr(source, "_gradinspect", None)
        if mark is None:
            entry = self._parameters.of_object(source)
            if entry is not None:
                mark = self._made_of(entry)
            elif source.layout is torch.strided and source.untyped_storage().data_ptr() in self._inputs:
                mark = DATA
            elif operation == "lift_fresh" and self._has_samples(source):
                mark = FRESH
        if mark is not None:
            self._mark(output, mark)

    def mark(self, output: Any, operation: str, mark: Mark | None, arguments: Sequence[Any]) -> None:
        """Mark what an operation returned, or the memory that it changed.

        Args:
            mark: from `sort`.
            arguments: of the operation; one that changes memory (`add_`) changes the first.
        """
        name = operation.rstrip("_")
        is_in_place = operation.endswith("_")
        if name in ATEN_RANDOM and mark is None:
            mark = FRESH if isinstance(output, torch.Tensor) and self._has_samples(output) else None
        elif name.endswith("_like") or name.startswith("new_"):
            return  # a constant that takes only its shape from its arguments
        if mark is None:
            return
        if is_in_place and arguments and isinstance(arguments[0], torch.Tensor):
            self._note_written(arguments[0], mark)
        else:
            self._mark(output, mark)

    def _note_written(self, tensor: torch.Tensor, mark: Mark) -> None:
        if tensor.layout is not torch.strided or getattr(tensor, "_gradinspect", None) is DATA:
            return
        if self._parameters.of_memory(tensor) is None:
            self._written[tensor.untyped_storage()] = mark

    def _mark(self, output: Any, mark: Mark) -> None:
        for tensor in (output,) if isinstance(output, torch.Tensor) else tensors_in((output,)):
            tensor._gradinspect = mark  # type: ignore[attr-defined]  # our own attribute

    def _mark_of(self, tensor: torch.Tensor) -> Mark | None:
        mark: Mark | None = getattr(tensor, "_gradinspect", None)
        if mark is DATA:
            return mark
        entry = self._parameters.of_object(tensor)
        if entry is not None:
            return self._made_of(entry)
        if self._written and tensor.layout is torch.strided:
            mark = self._written.get(tensor.untyped_storage(), mark)
        if mark is not None:
            return mark
        entry = self._parameters.of_memory(tensor)
        if entry is not None:
            return self._made_of(entry)
        return DATA if tensor.grad_fn is not None or self._is_input(tensor) else None

    def _made_of(self, entry: ParameterEntry) -> Made:
        made = self._of_entry.get(entry)
        if made is None:
            made = self._of_entry[entry] = Made((entry,), is_parameter=True)
        return made

    def _has_samples(self, tensor: torch.Tensor) -> bool:
        """Check for an axis of samples, the first or, in sequences, the second."""
        return tensor.dim() >= 2 and self._samples in tensor.shape[:2]

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


def _applied(made: list[tuple[torch.Tensor, Made]], data: torch.Tensor | None, operation: str) -> Sources:
    """Describe an operation that applies parameters to data.

    What parameters made of a constant is a weight in a matrix product (an orthogonal matrix Q₀·Q), and elsewhere a
    state to which data is added (the first step of a recurrence).
    """
    if not made:
        return Sources([], data, DATA)
    takes_weights = operation in ATEN_WITH_WEIGHT_OPERAND
    used = [mark for _, mark in made if takes_weights or not mark.has_met_constant]
    return Sources(_entries(used), data, DATA, any(not mark.is_parameter for mark in used))


def _without_data(made: list[tuple[torch.Tensor, Made]], constant: torch.Tensor | None, operation: str) -> Sources:
    """Describe an operation on parameters, and on constants where there are some."""
    states = [tensor for tensor, mark in made if mark.has_met_constant]
    is_layer = operation in ATEN_LAYERS
    mark = Made(
        tuple(_entries([mark for _, mark in made])),
        has_met_constant=bool(states) or (is_layer and constant is not None),
        is_parameter=operation in ("_to_copy", "clone") and len(made) == 1 and made[0][1].is_parameter,
    )
    taken = states[0] if states else constant
    if taken is None and len(made) > 1:
        taken = made[1 if operation in ("addmm", "baddbmm", "addmv") and len(made) > 2 else 0][0]
    if taken is None or not (is_layer or (states and operation in ATEN_BIAS_OR_GAIN)):
        return Sources([], None, mark)
    others = [mark for tensor, mark in made if tensor is not taken]
    return Sources(_entries(others), taken, mark, any(not other.is_parameter for other in others))


def _entries(marks: Sequence[Made]) -> list[ParameterEntry]:
    return list(dict.fromkeys(entry for mark in marks for entry in mark.entries))
