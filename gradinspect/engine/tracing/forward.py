"""Watch a forward pass: which operation is which layer call, and what its values look like.

A dispatch mode sees every ATen operation of eager modules, scripted and traced TorchScript alike, below autograd.
Once an operation has returned, its output carries the autograd node that belongs to it; the recorder therefore
settles each operation when the next one starts. Values are summarised on the spot and dropped, so the pass needs no
memory beyond one tensor.

A *layer call* is an operation in which a parameter (or something computed from parameters alone: a cast, a mask, a
weight norm) meets data. What only reshapes is passed through. Nonlinearities are told in `nonlinearities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.engine.arrays.distributions import strided_chunks
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex, owner_of
from gradinspect.engine.tracing.activations import SlopeKernel, find_activation, slope_of
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.graph import through_reshapes
from gradinspect.engine.tracing.ledger import HostLedger, Ledger
from gradinspect.engine.tracing.nonlinearities import Nonlinearities, Step
from gradinspect.engine.tracing.operator_names import (
    ATEN_BIAS_OR_GAIN,
    ATEN_CHANNELS_FIRST,
    ATEN_COPYING_RESHAPES,
    ATEN_NONLINEARITY_PARTS,
    ATEN_SHAPE_GIVING,
    ATEN_WITH_TENSOR_ARGUMENT,
)
from gradinspect.engine.tracing.origins import DATA, Origins, tensors_in
from gradinspect.engine.tracing.outputs import OutputReading
from gradinspect.engine.tracing.units import ACTIVATION_SAMPLE, Layout


@dataclass(eq=False, slots=True)
class _Pending:
    operation: str
    output: torch.Tensor
    shape: tuple[int, ...]
    entries: list[ParameterEntry]
    data: torch.Tensor | None
    step: Step | None
    activation: ActivationCall | None
    arguments: tuple[Any, ...]  # Any: as ATen has them


class ForwardRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hooks untyped
    """Record the layer calls of everything that runs inside the `with` block.

    Args:
        parameters: the model's parameters.
        inputs: the tensors that enter the model; their first axis counts samples.
        ledger: takes the readings; without one they are read on the host, and complete after the block.

    After the block, `calls` lists the layer calls in the order in which they ran.
    """

    def __init__(
        self, parameters: ParameterIndex, inputs: Iterable[torch.Tensor], ledger: Ledger | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.calls: list[LayerCall] = []
        self.nonlinearities = Nonlinearities()
        self._ledger = ledger if ledger is not None else HostLedger()
        inputs = list(inputs)
        self._origins = Origins(parameters, inputs)
        self._samples = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
        self._pending: _Pending | None = None
        self._by_node: dict[Node, LayerCall] = {}
        self._last_read: tuple[torch.Tensor, int, LayerCall | ActivationCall] | None = None
        self.failure: Exception | None = None  # TorchScript drops the message of what is raised in here

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler, a second and 100 MB, around the first operation."""
        return False

    def __enter__(self) -> Self:
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]  # torch leaves it untyped

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if kind is None:
            self._settle(next_input=None)
        self._pending = self._last_read = None

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: whatever the operation returns
        try:
            return self._run(func, args, kwargs or {})
        except Exception as error:
            self.failure = error
            raise

    def _run(self, func: torch._ops.OpOverload, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        operation = func._overloadpacket.__name__
        if func.is_view or operation in ATEN_COPYING_RESHAPES:
            return self._pass_view(func(*args, **keywords), operation, args)
        is_candidate = operation.rstrip("_") in ATEN_NONLINEARITY_PARTS
        activation = find_activation(operation, args, keywords) if is_candidate else None
        self._settle(next_input=args[0] if activation is not None else None)
        tensors = [*tensors_in(args), *tensors_in(keywords.values())] if keywords else list(tensors_in(args))
        entries, data, mark = self._origins.sort(tensors, operation)
        step = None
        if is_candidate and (not entries or operation in ATEN_WITH_TENSOR_ARGUMENT):
            step = self.nonlinearities.step(operation, tensors)
        follows = self._origin(args[0], step) if activation is not None else None
        before = None
        if follows is not None and activation is not None and activation.kernel and activation.kernel.needs_input:
            before = _slope_sample(args[0], activation.kernel, in_place=operation.endswith("_"))
        output = func(*args, **keywords)
        if mark is not None:
            self._origins.mark(output, operation, mark)
        first = output[0] if isinstance(output, tuple | list) and output else output
        if mark is DATA and isinstance(first, torch.Tensor) and first.is_floating_point():
            made = None
            if activation is not None and follows is not None:
                made = ActivationCall(operation, activation, _scalars(args), keywords, None)
                made.largest_slope = activation.largest_slope
                self._read_slope(follows, made, before, first, args)
            scalars = _scalars(args) if entries else ()
            self._pending = _Pending(operation, first, first.shape, entries, data, step, made, scalars)
            if made is not None and follows is not None and step is None:
                follows.activation = made
                self._read_activation(follows, made, first)
        return output

    def _pass_view(self, output: Any, operation: str, args: tuple[Any, ...]) -> Any:  # Any: as ATen returns it
        source = args[0] if args else None
        if isinstance(source, torch.Tensor):
            pending = self._pending
            if pending is not None and source is pending.output and _unfolds(pending, operation, output):
                pending.shape = output.shape
            self._origins.pass_on(source, output, operation)
        return output

    def _origin(self, source: torch.Tensor, step: Step | None) -> LayerCall | None:
        """The layer call whose output a nonlinearity takes, up to reshapes."""
        if step is not None:
            return step.call if step.is_first else None
        if source.grad_fn is None and self.calls:
            last = self.calls[-1]  # below the first trained parameter there is no graph to ask
            if last.node is None and last.activation is None and last.output_numel == source.numel():
                return last
        return None

    def _read_slope(
        self, call: LayerCall, made: ActivationCall, z: torch.Tensor | None, y: torch.Tensor, args: tuple[Any, ...]
    ) -> None:
        assert made.activation is not None
        kernel = made.activation.kernel
        if kernel is None:
            made.is_elementwise = False
            return
        if kernel.is_sign_of_output:
            return  # it is read with the output
        y_sample = _slope_sample(y, kernel, in_place=False)
        call.sampled |= y_sample.numel() < y.numel()
        slope = slope_of(made.activation, y_sample if z is None else z, y_sample, args, made.keywords)
        if slope is not None:
            self._ledger.slope(slope, made.largest_slope, partial(setattr, made, "slope"))

    def _settle(self, next_input: torch.Tensor | None) -> None:
        """Summarise the operation that has just returned; its output now knows its autograd node.

        Args:
            next_input: what a nonlinearity is about to take: units are then counted behind it, not before.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        node = pending.output.grad_fn
        if node is not None and pending.step is None and not pending.entries and self.nonlinearities.is_custom(node):
            pending.step = self.nonlinearities.custom_step(node)
        if pending.step is not None and node is not None:
            self._extend(pending, pending.step, node)
        elif pending.entries:
            self._record(pending, node, is_activated=_shares_memory(next_input, pending.output))

    def _extend(self, pending: _Pending, step: Step, node: Node) -> None:
        """Another step of what may be the nonlinearity behind a call."""
        if step.call.output_numel != pending.output.numel() and pending.activation is None:
            return
        made = self.nonlinearities.extend(step, pending.operation, pending.activation, node)
        if made is not None:
            self._read_activation(step.call, made, pending.output)
            if step.is_first and pending.activation is not None and step.call.activation is None:
                step.call.activation = made

    def _read_activation(self, call: LayerCall, made: ActivationCall, output: torch.Tensor) -> None:
        self._last_read = (output, _version(output), made)
        # In-place calls return their own input, so the shape that counts is the layer call's.
        shape = call.output_shape if output.numel() == call.output_numel else tuple(output.shape)
        kernel = made.activation.kernel if made.activation is not None else None
        is_rectified = kernel is not None and kernel.is_sign_of_output
        layout = Layout(shape, self._samples, call.operation in ATEN_CHANNELS_FIRST, is_rectified)
        self._ledger.output(output, layout, partial(_keep, made))
        call.sampled |= output.numel() > ACTIVATION_SAMPLE

    def _record(self, pending: _Pending, node: Node | None, *, is_activated: bool) -> None:
        call = self._continues(pending, node)
        if call is not None:
            call.entries.extend(entry for entry in pending.entries if entry not in call.entries)
            call.applied += (pending.operation.rstrip("_"),)
        else:
            call = LayerCall(len(self.calls), pending.operation, list(pending.entries), (), pending.arguments)
            call.applied += (pending.operation.rstrip("_"),)
            self.calls.append(call)
            self._read_input(call, pending.data)
        call.output_shape, call.output_numel = tuple(pending.shape), pending.output.numel()
        self._last_read = (pending.output, _version(pending.output), call)
        call.units = None
        if is_activated:
            self._ledger.amplitude(pending.output, partial(setattr, call, "output"))
        else:
            layout = Layout(call.output_shape, self._samples, pending.operation in ATEN_CHANNELS_FIRST)
            self._ledger.output(pending.output, layout, partial(_keep, call))
            call.sampled |= pending.output.numel() > ACTIVATION_SAMPLE
        if node is not None:
            call.nodes.append(node)
            self._by_node[node] = call
            self.nonlinearities.begin(call, node)

    def _read_input(self, call: LayerCall, data: torch.Tensor | None) -> None:
        if data is None:
            return
        call.input_shape = tuple(data.shape)
        if not data.is_floating_point():
            return
        if self._last_read is not None:
            tensor, version, reading = self._last_read
            same = data is tensor or (_shares_memory(data, tensor) and data.numel() == tensor.numel())
            if same and _version(tensor) == version:
                call.source = reading
                return
        call.input_numel = data.numel()
        self._ledger.norm(data, partial(setattr, call, "input_norm"))

    def _continues(self, pending: _Pending, node: Node | None) -> LayerCall | None:
        """The earlier call that a separate bias or gain belongs to."""
        if pending.operation not in ATEN_BIAS_OR_GAIN or not self.calls or not all(map(_is_vector, pending.entries)):
            return None
        if node is None:
            earlier: LayerCall | None = self.calls[-1]
        else:
            sources = [through_reshapes(child) for child, _ in node.next_functions if child is not None]
            earlier = next((self._by_node[source] for source in sources if source in self._by_node), None)
        if earlier is None or set(earlier.entries) & set(pending.entries):
            return None
        kind = pending.operation.rstrip("_")
        if kind in earlier.applied:
            return None  # one bias and one gain are a layer's; a second of a kind begins a call of its own
        same_owner = {owner_of(n) for e in earlier.entries for n in e.names} & {
            owner_of(n) for e in pending.entries for n in e.names
        }
        return earlier if same_owner else None


def _keep(call: LayerCall | ActivationCall, reading: OutputReading) -> None:
    call.output, call.units = reading.amplitude, reading.units
    if isinstance(call, ActivationCall) and reading.slope is not None:
        call.slope = reading.slope


def _unfolds(pending: _Pending, operation: str, view: torch.Tensor) -> bool:
    """Whether a view gives a call's output the shape that the module returns: leading axes were folded for it.

    Splitting features into heads, or folding the axes for the next layer, is none of the module's doing.
    """
    if operation not in ATEN_SHAPE_GIVING:
        return False
    before, after = pending.output.shape, view.shape
    if "batch_norm" in pending.operation:  # instance norm folds samples into channels
        return before[0] == 1 and len(before) == len(after) and after[0] * after[1] == before[1]
    return len(after) > len(before) and before[-1:] == after[-1:]


def _shares_memory(left: torch.Tensor | None, right: torch.Tensor) -> bool:
    if left is None or left.layout is not torch.strided or right.layout is not torch.strided:
        return False
    return left is right or left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


def _version(tensor: torch.Tensor) -> int:
    """Counts changes in place."""
    return -1 if tensor.is_inference() else tensor._version


def _slope_sample(tensor: torch.Tensor, kernel: SlopeKernel, *, in_place: bool) -> torch.Tensor:
    """The elements whose slope is read; a copy where the operation overwrites them."""
    values = tensor.detach()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    if kernel.reads_whole_tensor:
        return values.clone() if in_place else values
    sample = strided_chunks(values.reshape(-1), ACTIVATION_SAMPLE)
    return sample.clone() if in_place and sample.data_ptr() == values.data_ptr() else sample


def _is_vector(entry: ParameterEntry) -> bool:
    return sum(size != 1 for size in entry.tensor.shape) <= 1


def _scalars(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if isinstance(argument, torch.Tensor) else argument for argument in args)
