"""Record a forward pass: which operations are layer calls, and what their values look like.

A dispatch mode sees every ATen operation of eager modules, scripted and traced TorchScript alike, below autograd.
Autograd attaches its node to an output after the dispatch mode has returned, so each operation is settled when the
next one starts. Values are summarized immediately and dropped: the pass needs no memory beyond one tensor.

A *layer call* is an operation in which a parameter (or something computed from parameters alone: a cast, a mask, a
weight norm) meets data. Reshapes are skipped. `nonlinearities` recognizes nonlinearities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from gradinspect.engine.arrays.distributions import strided_chunks
from gradinspect.engine.arrays.units import ACTIVATION_SAMPLE
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.activations import SlopeKernel, find_activation, slope_of
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.layer_calls import LayerCalls, shares_memory
from gradinspect.engine.tracing.ledger import HostLedger, Ledger, read_slope
from gradinspect.engine.tracing.nonlinearities import Nonlinearities, Step
from gradinspect.engine.tracing.operations import Operation, Returned, scalars_of
from gradinspect.engine.tracing.operator_names import (
    ATEN_COPYING_RESHAPES,
    ATEN_NONLINEARITY_PARTS,
    ATEN_WITH_TENSOR_ARGUMENT,
)
from gradinspect.engine.tracing.origins import Origins, tensors_in

Arguments = tuple[Any, ...]  # Any: arguments and results of ATen operations
Keywords = Mapping[str, Any]


class ForwardRecorder(TorchDispatchMode):
    """Records the layer calls of everything that runs inside the `with` block.

    Args:
        parameters: the model's parameters.
        inputs: the tensors that enter the model; their first axis counts samples.
        ledger: takes the readings; by default they are read on the host.

    After the block, `calls` lists the layer calls in the order in which they ran.
    """

    def __init__(
        self, parameters: ParameterIndex, inputs: Iterable[torch.Tensor], ledger: Ledger | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        inputs = list(inputs)
        self.nonlinearities = Nonlinearities()
        self.failure: Exception | None = None  # TorchScript drops the message of an exception raised here
        self._ledger = ledger if ledger is not None else HostLedger()
        samples = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
        self._origins = Origins(parameters, inputs, samples)
        self._layers = LayerCalls(self._ledger, samples)
        self._unsettled: Returned | None = None

    @property
    def calls(self) -> list[LayerCall]:
        """The layer calls in the order in which they ran, also those that have met no data (see `chosen_calls`)."""
        return self._layers.calls

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
        self._unsettled = None
        self._layers.forget_tensors()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> Any:
        try:
            return self._run(func, args, kwargs or {})
        except Exception as error:
            self.failure = error
            raise

    def _run(self, func: torch._ops.OpOverload, args: Arguments, keywords: Keywords) -> Any:
        name = func._overloadpacket.__name__
        if func.is_view or name in ATEN_COPYING_RESHAPES:
            output = func(*args, **keywords)
            self._pass_on(output, name, args)
            return output
        operation = self._prepare(name, args, keywords)
        input_sample = _input_sample(operation, args)
        output = func(*args, **keywords)
        self._take(operation, output, input_sample, args, keywords)
        return output

    def _pass_on(self, output: Any, name: str, args: Arguments) -> None:
        """Mark a view, or a copy in another order, as what its source is."""
        source = args[0] if args else None
        if isinstance(source, torch.Tensor):
            last = self._unsettled
            if last is not None and source is last.output and last.is_unfolded_by(name, output):
                last.shape = output.shape
            self._origins.pass_on(source, output, name)

    def _prepare(self, name: str, args: Arguments, keywords: Keywords) -> Operation:
        """Settle the previous operation, and describe the next one from its arguments."""
        may_be_nonlinear = name.rstrip("_") in ATEN_NONLINEARITY_PARTS
        activation = find_activation(name, args, keywords) if may_be_nonlinear else None
        self._settle(next_input=args[0] if activation is not None else None)
        tensors = [*tensors_in(args), *tensors_in(keywords.values())] if keywords else list(tensors_in(args))
        sources = self._origins.sort(tensors, name)
        operation = Operation(name, sources, activation=activation)
        if may_be_nonlinear and (not sources.entries or name in ATEN_WITH_TENSOR_ARGUMENT):
            operation.step = self.nonlinearities.step(name, tensors)
        if activation is not None:
            operation.follows = self._call_before(args[0], operation.step)
            if operation.step is None and activation.kernel is not None and not sources.entries:
                operation.fed_by = self._layers.feeding(args[0])
        if sources.entries:
            operation.arguments = scalars_of(args)
        return operation

    def _call_before(self, source: torch.Tensor, step: Step | None) -> LayerCall | None:
        """Return the layer call whose output a nonlinearity takes, up to reshapes."""
        if step is not None:
            return step.call if step.is_first else None
        if source.grad_fn is None and self.calls:
            last = self.calls[-1]  # below the first trained parameter there is no graph to ask
            if last.node is None and last.activation is None and last.output_numel == source.numel():
                return last
        return None

    def _take(
        self, operation: Operation, output: Any, input_sample: torch.Tensor | None, args: Arguments, keywords: Keywords
    ) -> None:
        """Mark the output of an operation that has run, read the slope of a nonlinearity, and leave the rest unsettled.

        Args:
            input_sample: the nonlinearity's input, where its slope is computed from that.
        """
        self._origins.mark(output, operation.name, operation.sources.mark, args)
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not operation.is_followed or not isinstance(first, torch.Tensor):
            return
        if not (first.is_floating_point() or first.is_complex()):
            return
        made, call = None, operation.follows
        if operation.activation is not None and call is not None:
            made = ActivationCall(operation.name, operation.activation, scalars_of(args), keywords, None)
            made.largest_slope = operation.activation.largest_slope
            self._read_slope(call, made, input_sample, first, args)
        elif operation.activation is not None and operation.fed_by and operation.follows is None:
            self._read_joined(operation, input_sample, first, args, keywords)
        self._unsettled = Returned(operation, first, first.shape, made)
        if made is not None and call is not None and operation.step is None:
            call.activation = made
            self._layers.read_activation(call, made, first)

    def _read_joined(
        self, operation: Operation, z: torch.Tensor | None, y: torch.Tensor, args: Arguments, keywords: Keywords
    ) -> None:
        """Read a nonlinearity that takes several calls' outputs, or parts, for each of those calls."""
        joined = ActivationCall(operation.name, operation.activation, scalars_of(args), keywords, None)
        joined.largest_slope = operation.activation.largest_slope if operation.activation is not None else None
        self._read_slope(operation.fed_by[0], joined, z, y, args)
        self._layers.read_joined(operation.fed_by, joined, y)

    def _read_slope(
        self, call: LayerCall, made: ActivationCall, z: torch.Tensor | None, y: torch.Tensor, args: Arguments
    ) -> None:
        assert made.activation is not None
        kernel = made.activation.kernel
        if kernel is None:
            made.is_elementwise = False
            return
        if kernel.is_sign_of_output:
            return  # read with the output
        y_sample = _slope_sample(y, kernel, in_place=False)
        call.sampled |= y_sample.numel() < y.numel()
        slope = slope_of(made.activation, y_sample if z is None else z, y_sample, args, made.keywords)
        if slope is not None:
            read_slope(self._ledger, slope, made.largest_slope, partial(setattr, made, "slope"))

    def _settle(self, next_input: torch.Tensor | None) -> None:
        """Record the operation that returned last: its output has its autograd node by now.

        Args:
            next_input: what a nonlinearity is about to take; units are then counted behind it, not before.
        """
        returned, self._unsettled = self._unsettled, None
        if returned is None:
            return
        operation, node = returned.operation, returned.output.grad_fn
        if node is not None and not operation.sources.entries and operation.step is None:
            operation.step = self.nonlinearities.custom_step(node)
        if operation.step is not None and node is not None:
            self._extend(returned, operation.step, node)
        elif operation.sources.entries:
            is_activated = next_input is not None and shares_memory(next_input, returned.output)
            call = self._layers.add(returned, node, is_activated=is_activated)
            if node is not None:
                self.nonlinearities.begin(call, node)

    def _extend(self, returned: Returned, step: Step, node: Node) -> None:
        """Add a step to what may be the nonlinearity behind a call."""
        if step.call.output_numel != returned.output.numel() and returned.activation is None:
            return
        made = self.nonlinearities.extend(step, returned.operation.name, returned.activation, node)
        if made is not None:
            self._layers.read_activation(step.call, made, returned.output)
            if step.is_first and returned.activation is not None and step.call.activation is None:
                step.call.activation = made


def _input_sample(operation: Operation, args: Arguments) -> torch.Tensor | None:
    """Return the input of a nonlinearity whose slope is computed from it."""
    activation = operation.activation
    is_read = operation.follows is not None or bool(operation.fed_by)
    if not is_read or activation is None or activation.kernel is None:
        return None
    if not activation.kernel.needs_input:
        return None
    return _slope_sample(args[0], activation.kernel, in_place=operation.name.endswith("_"))


def _slope_sample(tensor: torch.Tensor, kernel: SlopeKernel, *, in_place: bool) -> torch.Tensor:
    """Return the elements whose slope is read; a copy where the operation overwrites them."""
    values = tensor.detach()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    if kernel.reads_whole_tensor:
        return values.clone() if in_place else values
    sample = strided_chunks(values.reshape(-1), ACTIVATION_SAMPLE)
    return sample.clone() if in_place and sample.data_ptr() == values.data_ptr() else sample
