"""The second forward pass, operation by operation: where non-finite values begin, and where the gradient is cut.

Every storage carries what its values came from: the parameters behind it, the operations that made it non-finite, and
the operations that cut it from the graph. A view shares its base's storage, so in-place writes need no care.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.contracts.report.operations import Trap
from gradinspect.engine.locate.records import MOST_INPUTS, Record, Stage, axis_size, describe, tensors_of
from gradinspect.engine.locate.source_lines import calling_frames
from gradinspect.engine.network.parameters import ParameterIndex, owner_of

# They write constants that the model chose, such as the -inf of an attention mask.
_CHOOSES_VALUES = frozenset(
    {"masked_fill", "masked_fill_", "full", "full_like", "new_full", "fill_", "fill", "where", "index_put",
     "index_put_", "_index_put_impl_", "index_fill", "index_fill_", "copy_", "triu", "tril", "constant_pad_nd",
     "masked_scatter", "scalar_tensor", "lift_fresh"}
)  # fmt: skip
_PASSES_NOTHING_ON = frozenset({"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
     "new_zeros", "new_empty", "new_ones", "new_full", "new_empty_strided"})  # fmt: skip
_DETACHING: dict[str, Trap] = {"detach": "detached", "data": "data"}
_LEAVES_GRAPH = {"tolist", "numpy", "__array__"}


@dataclass(frozen=True)
class Provenance:
    """What the values of one storage came from.

    Attributes:
        parameters: a bit for each parameter, by its index.
        broken_by: indices of the operations that made non-finite values of finite ones.
        cut_by: the operations behind which it no longer reaches the parameters, each with the parameters it cuts.
        made_by: index of the operation that wrote it last; -1 for what exists before the pass.
        lost: why the output of `made_by` has no graph although its inputs had one; None where it has one.
        detached_by: index of the last `detach` of it that the model called.
    """

    parameters: int = 0
    broken_by: frozenset[int] = frozenset()
    cut_by: frozenset[tuple[int, Trap, int]] = frozenset()
    made_by: int = -1
    lost: Trap | None = None
    detached_by: int | None = None


NOTHING = Provenance()


class OperationWatch(TorchDispatchMode):
    """Records every operation inside the `with` block.

    Args:
        parameters: of the model.
        names: id of a module → its path.
        stop: code of the function that runs the pass.

    Attributes:
        records: the operations, in order.
        stage: set to "loss" before the loss is computed.
        next_detach: name under which the next `detach` is recorded; reading `.data` calls it too.
        exits: operations that turn tensors into Python numbers, with the parameters behind them.
    """

    def __init__(self, parameters: ParameterIndex, names: Mapping[int, str], stop: CodeType) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.records: list[Record] = []
        self.stage: Stage = "forward"
        self.exits: list[tuple[int, int]] = []
        self.last_used: list[str] = []
        self._parameters, self._names, self._stop = parameters, names, stop
        self._storages: dict[int, tuple[StorageWeakRef, Provenance]] = {}
        self._saved_by: set[int] = set()
        self.next_detach = "detach"
        for index, entry in enumerate(parameters):
            if not entry.requires_grad:
                continue
            for member in entry.members:
                before = self.provenance(member)
                self._keep(member, replace(before, parameters=before.parameters | 1 << index))

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        name = func._overloadpacket.__name__
        tensors = [*tensors_of(args), *tensors_of(tuple(keywords.values()))]
        if func.is_view and name != "detach":
            return self._watch_view(func, tensors, args, keywords)
        if name == "detach" and self._is_saved_output(args[0]):
            return func(*args, **keywords)
        if name == "detach":
            name, self.next_detach = self.next_detach, "detach"
        record = self._begin(name, args, keywords)
        sources = [self._used(tensor) for tensor in tensors]
        had_graph = any(tensor.requires_grad for tensor in tensors)
        output = func(*args, **keywords)
        self._end(record, output, tensors, sources, had_graph=had_graph)
        return output

    def provenance(self, tensor: torch.Tensor) -> Provenance:
        """Return what a tensor's values came from."""
        if tensor.layout is not torch.strided:
            return NOTHING
        known = self._storages.get(tensor.untyped_storage()._cdata)
        return known[1] if known is not None else NOTHING

    def used(self, tensor: torch.Tensor) -> Provenance:
        """Return what a tensor's values came from, with the cut that its use here shows."""
        return self._used(tensor)

    def leave(self, name: str, tensor: torch.Tensor) -> None:
        """Record that a tensor's values leave torch by a call that is no operation."""
        source = self._used(tensor)
        if source.parameters:
            record = self._begin(name, (tensor,), {})
            self.exits.append((record.index, source.parameters))

    def _watch_view(self, func: Any, tensors: list[torch.Tensor], args: Any, keywords: Any) -> Any:
        for tensor in tensors:
            source = self.provenance(tensor)
            if not torch.is_grad_enabled() and source.parameters and tensor.requires_grad and source.lost is None:
                record = self._begin(func._overloadpacket.__name__, args, keywords)
                self._keep(tensor, replace(source, detached_by=record.index))
        return func(*args, **keywords)

    def _is_saved_output(self, tensor: torch.Tensor) -> bool:
        """Check for the detached copy of its output that an autograd node saves; the model did not call that one."""
        node = tensor.grad_fn
        if node is None or node._sequence_nr() in self._saved_by:
            return False
        if not any(hasattr(type(node), name) for name in ("_saved_result", "_saved_output", "_saved_result0")):
            return False
        self._saved_by.add(node._sequence_nr())
        return not self.records or self.records[-1].sequence == node._sequence_nr()

    def _begin(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Record:
        module, source = calling_frames(self._names, self._stop)
        positions = tuple(
            index for index, value in enumerate(args) if isinstance(value, torch.Tensor) and value.is_floating_point()
        )
        inputs = [args[index] for index in positions] or list(tensors_of(args))
        record = Record(
            index=len(self.records), name=name.rstrip("_") if name != "_" else name, stage=self.stage,
            arguments=tuple(None if isinstance(value, torch.Tensor) else value for value in args),
            inputs=tuple(describe(tensor) for tensor in inputs[:MOST_INPUTS]), positions=positions[:MOST_INPUTS],
            axis_size=axis_size(name, args), module=module if self.stage == "forward" else None, source=source,
            keywords={key: value for key, value in keywords.items() if not isinstance(value, torch.Tensor)},
        )  # fmt: skip
        self.records.append(record)
        used = [entry for tensor in tensors_of(args) if (entry := self._parameters.of_memory(tensor)) is not None]
        before = self.last_used[-1] if self.last_used else ""
        self.last_used.append(owner_of(used[-1].name) if used else before)
        # Below autograd, the node of this operation is the newest one.
        record.sequence = torch._C._autograd._get_sequence_nr() - 1
        return record

    def _used(self, tensor: torch.Tensor) -> Provenance:
        """Return the provenance of an argument; one that lost its graph since it was made was cut there."""
        source = self.provenance(tensor)
        if not source.parameters or tensor.requires_grad or not _can_have_graph(tensor, source):
            return source
        cut: tuple[int, Trap] | None = None
        if source.lost is not None:
            cut = source.made_by, source.lost
        elif source.detached_by is not None:
            record = self.records[source.detached_by]
            cut = source.detached_by, _DETACHING.get(record.name, "no_grad")
        elif source.made_by < 0:
            cut = len(self.records) - 1, "data"  # a parameter's own .data
        elif source.parameters & ~_union(parameters for _, _, parameters in source.cut_by):
            cut = len(self.records) - 1, "data"
        if cut is None or cut[0] < 0:
            return source
        return replace(source, cut_by=source.cut_by | {(*cut, source.parameters)})

    def _end(
        self, record: Record, output: Any, tensors: list[torch.Tensor], sources: list[Provenance], *, had_graph: bool
    ) -> None:
        parameters, broken, cuts = 0, frozenset[int](), frozenset[tuple[int, Trap, int]]()
        if record.name not in _PASSES_NOTHING_ON:
            for tensor, source in zip(tensors, sources, strict=True):
                parameters |= source.parameters
                cuts |= source.cut_by
                if source.broken_by and not _is_finite(tensor):
                    broken |= source.broken_by
        record.upstream, record.inherits = parameters, broken
        results = list(tensors_of(output))
        if record.name == "_local_scalar_dense" and parameters:
            self.exits.append((record.index, parameters))
        if record.name in _DETACHING:
            source = sources[0]
            if had_graph and source.parameters:
                self._keep(tensors[0], replace(source, detached_by=record.index))
            return
        lost: Trap | None = None
        if had_graph and not torch.is_grad_enabled():
            lost = "no_grad"
        elif had_graph and results and not any(_takes_gradients(result) for result in results):
            lost = "no_derivative"
        if results:
            record.output_dtype = results[0].dtype
        for result in results:
            made = broken
            if not _is_finite(result):
                deliberate = _is_deliberate(record.name, record, result, tensors)
                if not broken and not deliberate:
                    made = frozenset({record.index})
                    record.breaks = True
                    record.makes_nan = bool(torch.isnan(result.detach()).any())
            else:
                made = frozenset()
            self._keep(result, Provenance(parameters, made, cuts, record.index, lost))

    def _keep(self, tensor: torch.Tensor, provenance: Provenance) -> None:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            # The weak reference keeps the storage's address from being given to another one.
            self._storages[storage._cdata] = StorageWeakRef(storage), provenance


class LeavingCalls(TorchFunctionMode):
    """Tells a watch of the calls of eager models that take values out of the graph and are no operations."""

    def __init__(self, watch: OperationWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]  # a C getter
                self._watch.next_detach = "data"
            elif getattr(func, "__name__", "") in _LEAVES_GRAPH:
                self._watch.leave(func.__name__, args[0])
        return func(*args, **(kwargs or {}))


def _union(bits: Iterable[int]) -> int:
    result = 0
    for each in bits:
        result |= each
    return result


def _takes_gradients(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _can_have_graph(tensor: torch.Tensor, source: Provenance) -> bool:
    return _takes_gradients(tensor) or source.lost == "no_derivative"


def _is_finite(tensor: torch.Tensor) -> bool:
    if not _takes_gradients(tensor) or tensor.layout is not torch.strided or not tensor.numel():
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def _is_deliberate(name: str, record: Record, result: torch.Tensor, tensors: Iterable[torch.Tensor]) -> bool:
    """Check whether a result is infinite because the model wrote an infinity, as into a mask."""
    if name in _CHOOSES_VALUES or f"{name}_" in _CHOOSES_VALUES:
        return True
    if bool(torch.isnan(result.detach()).any()):
        return False
    return any(not _is_finite(tensor) for tensor in tensors) or any(
        isinstance(value, float) and value in (float("inf"), float("-inf")) for value in record.arguments
    )
