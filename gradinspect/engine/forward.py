"""Watch a forward pass: which operation is which layer call, and what its values look like.

A dispatch mode sees every ATen operation of eager modules, scripted and traced TorchScript alike, below autograd.
Once an operation has returned, its output carries the autograd node that belongs to it; the recorder therefore
settles each operation when the next one starts. Values are summarised on the spot and dropped, so the pass needs no
memory beyond one tensor.

A *layer call* is an operation in which a parameter (or something computed from parameters alone: a cast, a mask, a
weight norm) meets data. What only reshapes is passed through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.engine.activations import Activation, SlopeReading, find_activation, read_slope
from gradinspect.engine.graph import through_reshapes
from gradinspect.engine.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.statistics import Amplitude, amplitude
from gradinspect.engine.units import UnitReading, read_units

LOOKUPS = frozenset({"embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"})
# A bias or a gain that is applied by an operation of its own belongs to the layer call that it follows.
ELEMENTWISE = frozenset({"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "addcmul", "addcmul_"})
# These copy or re-lay values without changing them, though ATen does not mark them as views.
RESHAPES = frozenset({"_unsafe_view", "_reshape_alias", "_reshape_copy"})
CHANNELS_FIRST = frozenset(
    {"convolution", "_convolution", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
     "_batch_norm_with_update", "native_group_norm", "mkldnn_convolution", "cudnn_convolution"}
)  # fmt: skip


@dataclass(eq=False)
class ActivationCall:
    """The nonlinearity that follows a layer call."""

    operation: str
    activation: Activation
    arguments: tuple[Any, ...]  # Any: scalars of the ATen call; its tensors are left out
    keywords: Mapping[str, Any]
    node: Node | None
    output: Amplitude
    slope: SlopeReading
    units: UnitReading


@dataclass(eq=False)
class LayerCall:
    """One operation in which parameters met data.

    Attributes:
        order: place among the layer calls of the forward pass.
        operation: ATen name of the operation (`addmm`, `convolution`, `native_layer_norm`).
        entries: the parameters that entered.
        nodes: autograd nodes of the call, the last one gives its output; empty below the first trained parameter.
        output_shape: as the module gives it, reshapes included.
        input_rms: rms of the data that entered, None for integers.
        output: the values before any nonlinearity.
        units: dead units and similarity of the output where no nonlinearity follows.
    """

    order: int
    operation: str
    entries: list[ParameterEntry]
    nodes: list[Node]
    output_shape: tuple[int, ...]
    input_rms: float | None
    output: Amplitude
    units: UnitReading | None = None
    activation: ActivationCall | None = None

    @property
    def node(self) -> Node | None:
        """The autograd node whose gradient input is the backward signal δ of this call."""
        return self.nodes[-1] if self.nodes else None


@dataclass(eq=False)
class _Pending:
    operation: str
    output: torch.Tensor
    entries: list[ParameterEntry]
    meets_data: bool
    data: torch.Tensor | None
    activation: Activation | None
    slope: SlopeReading | None
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.output.shape)


class ForwardRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hooks untyped
    """Record the layer calls of everything that runs inside the `with` block.

    Args:
        parameters: the model's parameters.
        inputs: the tensors that enter the model; their first axis counts samples.

    After the block, `calls` lists the layer calls in the order in which they ran.
    """

    def __init__(self, parameters: ParameterIndex, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.calls: list[LayerCall] = []
        self._parameters = parameters
        inputs = list(inputs)
        self._samples = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
        self._inputs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self._pending: _Pending | None = None
        self._pure: dict[Node, tuple[ParameterEntry, ...] | None] = {}
        self._by_node: dict[Node, LayerCall] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if kind is None:
            self._settle(next_input=None)

    def __enter__(self) -> Self:
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]  # torch leaves it untyped

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: whatever the operation returns
        keywords = kwargs or {}
        operation = func.overloadpacket.__name__
        if func.is_view or operation in RESHAPES:
            return self._pass_view(func(*args, **keywords), operation, args)
        activation = find_activation(operation, args, keywords)
        self._settle(next_input=args[0] if activation is not None else None)
        tensors = list(_tensors(args)) + list(_tensors(tuple(keywords.values())))
        entries, data = self._sort_arguments(tensors)
        meets_data = data is not None or operation in LOOKUPS
        before = args[0].clone() if activation and activation.needs_input and operation.endswith("_") else None
        output = func(*args, **keywords)
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, torch.Tensor) and first.is_floating_point():
            slope = None
            if activation is not None:
                slope = read_slope(activation, args[0] if before is None else before, first, args, keywords)
            self._pending = _Pending(
                operation, first, entries, meets_data, data, activation, slope,
                tuple(None if isinstance(a, torch.Tensor) else a for a in args), keywords,
            )  # fmt: skip
        return output

    def _pass_view(self, output: Any, operation: str, args: tuple[Any, ...]) -> Any:  # Any: as ATen returns it
        source = args[0] if args else None
        pending = self._pending
        if pending is not None and source is pending.output and operation in {"view", "_unsafe_view", "_reshape_alias"}:
            pending.shape = tuple(output.shape)
        if isinstance(output, torch.Tensor) and isinstance(source, torch.Tensor):
            passes_on = operation in RESHAPES or not source.requires_grad
            if passes_on and self._is_marked(source):
                _mark(output)
        return output

    def _sort_arguments(self, tensors: list[torch.Tensor]) -> tuple[list[ParameterEntry], torch.Tensor | None]:
        """Split an operation's tensors into parameters and the first tensor that carries data."""
        entries: list[ParameterEntry] = []
        data: torch.Tensor | None = None
        for tensor in tensors:
            entry = self._parameters.of_memory(tensor)
            found = (entry,) if entry is not None else self._derived_from(tensor.grad_fn)
            if found:
                entries.extend(e for e in found if e not in entries)
            elif data is None and (tensor.grad_fn is not None or tensor.requires_grad or self._is_marked(tensor)):
                data = tensor
        return entries, data

    def _is_marked(self, tensor: object) -> bool:
        """Whether a tensor that needs no gradient comes from the inputs."""
        if not isinstance(tensor, torch.Tensor):
            return False
        return hasattr(tensor, "_gradinspect_data") or tensor.untyped_storage().data_ptr() in self._inputs

    def _derived_from(self, node: Node | None) -> tuple[ParameterEntry, ...] | None:
        """The parameters that a node's output is computed from, if it is computed from nothing else."""
        if node is None:
            return None
        if node in self._pure:
            return self._pure[node]
        result: tuple[ParameterEntry, ...] | None
        variable = getattr(node, "variable", None)
        if variable is not None:
            entry = self._parameters.of_object(variable)
            result = (entry,) if entry is not None else None
        else:
            sources = [self._derived_from(child) for child, _ in node.next_functions if child is not None]
            pure = bool(sources) and all(source is not None for source in sources)
            result = tuple(dict.fromkeys(e for s in sources for e in s or ())) if pure else None
        self._pure[node] = result
        return result

    def _settle(self, next_input: torch.Tensor | None) -> None:
        """Summarise the operation that has just returned; its output now knows its autograd node."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        node = pending.output.grad_fn
        if not pending.meets_data:
            return  # computed from parameters and constants alone: `_derived_from` finds it again through the graph
        if node is not None:
            self._pure[node] = None
        else:
            _mark(pending.output)
        if pending.activation is not None and pending.slope is not None:
            self._attach(pending, pending.activation, pending.slope, node)
        if pending.entries and pending.activation is None:
            follows = next_input is not None and _shares_memory(next_input, pending.output)
            self._record(pending, node, activation_follows=follows)

    def _attach(self, pending: _Pending, activation: Activation, slope: SlopeReading, node: Node | None) -> None:
        call = self._origin(node, pending)
        if call is None or call.activation is not None:
            return
        output = amplitude(pending.output)
        # In-place calls return their own input, so the shape that counts is the layer call's.
        units = read_units(pending.output, call.output_shape, self._samples, call.operation in CHANNELS_FIRST)
        call.activation = ActivationCall(
            pending.operation, activation, pending.arguments, pending.keywords, node, output, slope, units
        )

    def _origin(self, node: Node | None, pending: _Pending) -> LayerCall | None:
        """The layer call whose output is, up to reshapes, the input of the pending activation."""
        if node is None:
            last = self.calls[-1] if self.calls else None
            return (
                last if last is not None and last.node is None and last.output.numel == pending.output.numel() else None
            )
        source = next((child for child, _ in node.next_functions if child is not None), None)
        return self._by_node.get(through_reshapes(source)) if source is not None else None

    def _record(self, pending: _Pending, node: Node | None, *, activation_follows: bool) -> None:
        values = amplitude(pending.output)
        units = None
        if not activation_follows:
            units = read_units(pending.output, pending.shape, self._samples, pending.operation in CHANNELS_FIRST)
        earlier = self._continues(pending, node)
        if earlier is not None:
            earlier.entries.extend(entry for entry in pending.entries if entry not in earlier.entries)
            earlier.output, earlier.units, earlier.output_shape = values, units, pending.shape
            call = earlier
        else:
            data = pending.data
            input_rms = amplitude(data).rms if data is not None and data.is_floating_point() else None
            call = LayerCall(
                len(self.calls), pending.operation, list(pending.entries), [], pending.shape, input_rms, values, units
            )
            self.calls.append(call)
        if node is not None:
            call.nodes.append(node)
            self._by_node[node] = call

    def _continues(self, pending: _Pending, node: Node | None) -> LayerCall | None:
        """The earlier call that a separate bias or gain belongs to."""
        if pending.operation not in ELEMENTWISE or not self.calls:
            return None
        if node is None:
            earlier: LayerCall | None = self.calls[-1]
        else:
            sources = [through_reshapes(child) for child, _ in node.next_functions if child is not None]
            earlier = next((self._by_node[source] for source in sources if source in self._by_node), None)
        if earlier is None or set(earlier.entries) & set(pending.entries):
            return None
        same_owner = {_owner(n) for e in earlier.entries for n in e.names} & {
            _owner(n) for e in pending.entries for n in e.names
        }
        return earlier if same_owner else None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _mark(tensor: torch.Tensor) -> None:
    tensor._gradinspect_data = True  # type: ignore[attr-defined]  # survives as long as the tensor does, unlike its address


def _shares_memory(left: object, right: torch.Tensor) -> bool:
    if not isinstance(left, torch.Tensor):
        return False
    return left is right or left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(tuple(value))
