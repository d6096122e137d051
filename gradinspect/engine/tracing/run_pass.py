"""One pass: forward, loss, backward, each value summarized while it exists.

Source of the method: the chain rule as autograd stores it. A prehook on a layer call's node sees δ, the gradient of
the loss with respect to the call's output; a hook behind each parameter's accumulation sees the complete gradient and
frees it, so that never more than one gradient is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.setup import MAX_UNREGISTERED, UnregisteredTensor
from gradinspect.engine.network.attributes import attribute_names
from gradinspect.engine.network.model_errors import describe_tensors, model_errors
from gradinspect.engine.network.optimizers import FirstStep
from gradinspect.engine.network.outputs import ModelOutput, first_tensor
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.backward import BackwardReader, clean_gradients, outside_leaves
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.device_ledger import DeviceLedger
from gradinspect.engine.tracing.forward import ForwardRecorder
from gradinspect.engine.tracing.graph import Graph, consumers, next_calls, read_graph
from gradinspect.engine.tracing.layer_calls import chosen_calls
from gradinspect.engine.tracing.ledger import HostLedger, Ledger
from gradinspect.engine.tracing.nonlinearities import Nonlinearities, is_custom, users_of
from gradinspect.engine.tracing.output_use import OutputEdges, OutputUse
from gradinspect.engine.tracing.paths.layer_graph import layer_graph
from gradinspect.engine.tracing.paths.recurrences import measure_recurrences
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.theory import homogeneous_weights

LossFunction = Callable[[ModelOutput], torch.Tensor]


def ledger_for(parameters: ParameterIndex) -> Ledger:
    """Return a ledger that fits the device of the parameters."""
    on_device = any(entry.tensor.device.type != "cpu" for entry in parameters)
    return DeviceLedger() if on_device else HostLedger()


@dataclass(frozen=True)
class TracedPass:
    """One forward and backward pass of a model over a batch; `run` reads it, once.

    Attributes:
        model: eager, scripted or traced; its gradients are restored afterwards.
        inputs: what `model(*inputs)` takes; the first axis counts samples.
        loss_function: from what the model returned to a scalar.
        first_step: of the declared optimizer, for the norms of its updates.
        on_stage: called with "forward" and "backward" when they begin.
        ledger: takes the readings; by default `ledger_for` the parameters.
        casting: entered while the model runs (autocast); the loss function handles its own precision.
        loss_scale: multiplies the loss before the backward pass, as mixed-precision training does; readings are
            divided by it.
    """

    model: nn.Module
    parameters: ParameterIndex
    inputs: Sequence[torch.Tensor]
    loss_function: LossFunction
    first_step: FirstStep | None = field(default=None, kw_only=True)
    on_stage: Callable[[str], None] = field(default=lambda _name: None, kw_only=True)
    ledger: Ledger | None = field(default=None, kw_only=True)
    casting: AbstractContextManager[object] = field(default_factory=nullcontext, kw_only=True)
    loss_scale: float = field(default=1.0, kw_only=True)

    def run(self) -> PassReading:
        """Run the model forwards and backwards once, and read both.

        Raises:
            InspectionError: `data_mismatch` when the model does not take the inputs, `model_error` when it raises for
                another reason, `no_gradient` when no parameter that requires a gradient reaches the loss.

        Cost: one forward and one backward pass, plus the statistics; peak memory below that of a bare backward pass,
            because each gradient is freed once it is read. On a device one synchronization, at the end.
        """
        ledger = self._ledger()
        recorder = ForwardRecorder(self.parameters, self.inputs, ledger)
        loss, shape, outputs = self._forward(recorder)
        assert loss.grad_fn is not None
        graph = read_graph(loss.grad_fn)
        calls = chosen_calls(recorder.calls, graph)
        reading = PassReading(math.nan, shape, calls, loss_scale=self.loss_scale, outputs=outputs)
        trace_graph(graph, reading, recorder.nonlinearities)
        reading.recurrences = measure_recurrences(reading.calls, reading.graph, ledger)
        outside = outside_leaves(graph, self.parameters)
        reading.unregistered = self._unregistered(graph, outside, outputs)
        return self._backward(loss, reading, ledger, outside)

    def _unregistered(
        self, graph: Graph, outside: Sequence[torch.Tensor], outputs: OutputUse
    ) -> tuple[UnregisteredTensor, ...]:
        """Describe the leaves that the model itself uses and does not take as inputs."""
        inputs = {id(tensor) for tensor in tree_leaves(self.inputs)}
        others = [leaf for leaf in outside if id(leaf) not in inputs]
        own = outputs.leaves_of_model(graph, others) if others else []
        names = attribute_names(self.model, own) if own else {}
        # A plain tensor that no attribute holds was made in the forward pass, such as an input that is detached again.
        own = [leaf for leaf in own if id(leaf) in names or isinstance(leaf, nn.Parameter)][:MAX_UNREGISTERED]
        order = {key: position for position, key in enumerate(names)}
        own.sort(key=lambda leaf: order.get(id(leaf), len(order)))
        return tuple(UnregisteredTensor(name=names.get(id(leaf), "(unknown)"), shape=tuple(leaf.shape)) for leaf in own)

    def run_for_gradients(self) -> PassReading:
        """Run the model forwards and backwards once, and read the gradients of the parameters alone.

        Raises:
            InspectionError: as `run`.
        """
        loss, shape, _ = self._forward(None)
        assert loss.grad_fn is not None
        outside = outside_leaves(read_graph(loss.grad_fn), self.parameters)
        reading = PassReading(math.nan, shape, [], loss_scale=self.loss_scale)
        return self._backward(loss, reading, self._ledger(), outside)

    def _ledger(self) -> Ledger:
        return self.ledger if self.ledger is not None else ledger_for(self.parameters)

    def _forward(self, recorder: ForwardRecorder | None) -> tuple[torch.Tensor, tuple[int, ...], OutputUse]:
        """Return the loss, the shape of the model's first output and the use of all; the outputs are released."""
        self.on_stage("forward")
        with torch.enable_grad():
            with self.casting, recorder or nullcontext(), self._model_errors(recorder):
                output = self.model(*self.inputs)
                shape = tuple(first_tensor(output).shape)
            edges = OutputEdges(output)
            loss = self.loss_function(output)
        if loss.grad_fn is None:
            raise InspectionError("no_gradient", _why_no_gradient(self.model, self.parameters))
        return loss, shape, edges.use(loss.grad_fn, self.parameters)

    def _model_errors(self, recorder: ForwardRecorder | None) -> AbstractContextManager[None]:
        return model_errors(
            "the model",
            lambda: f"inputs {describe_tensors(self.inputs)}",
            cause=lambda: recorder.failure if recorder is not None else None,
        )

    def _backward(
        self, loss: torch.Tensor, reading: PassReading, ledger: Ledger, outside: Sequence[torch.Tensor]
    ) -> PassReading:
        self.on_stage("backward")
        reader = BackwardReader(reading, self.parameters, ledger, self.first_step)
        with clean_gradients(self.parameters, outside), reader.watching(), model_errors("the backward pass"):
            (loss if self.loss_scale == 1.0 else loss * self.loss_scale).backward()
        release_graph(reading)
        for entry in self.parameters:
            ledger.mean_and_rms(entry.tensor, partial(reading.weights.__setitem__, entry))
        ledger.settle()
        reading.loss = float(loss.detach())
        _drop_undefined_steps(reading)
        return reading


def _why_no_gradient(model: nn.Module, parameters: ParameterIndex) -> str:
    count = len(parameters.entries)
    if count == 0:
        if isinstance(model, torch.jit.ScriptModule):
            return (
                "the model has no parameters: a frozen TorchScript file keeps its weights as constants; save it before "
                "torch.jit.freeze and optimize_for_inference"
            )
        return "the model has no parameters; add a layer that has some, such as Linear"
    if not any(entry.requires_grad for entry in parameters):
        return f"all {count} parameters have requires_grad=False"
    return "no parameter that requires a gradient reaches the output; look for detach() or no_grad() on the way"


def trace_graph(graph: Graph, reading: PassReading, nonlinearities: Nonlinearities) -> None:
    """Find each call's nonlinearity, the next call, and the weights of a homogeneous chain."""
    call_of = {node: call.order for call in reading.calls for node in call.nodes}
    reading.following = next_calls(graph, call_of)
    reading.graph = layer_graph(graph, call_of)
    used_by = consumers(graph)
    for call in reading.calls:
        if call.node is None:
            continue
        call.activation = nonlinearities.resolve(call, used_by)
        following = reading.following.get(call.order)
        if following is not None and _is_direct(call, reading.calls[following], used_by):
            reading.direct.add(call.order)
    if len(reading.direct) == len(reading.calls) - 1:
        reading.balanced = homogeneous_weights(reading.calls)


def _is_direct(call: LayerCall, following: LayerCall, used_by: Mapping[Node, Sequence[Node]]) -> bool:
    """Check that a call's output reaches the next call unbranched, through its nonlinearity and reshapes alone."""
    last = call.activation.node if call.activation is not None else call.node
    if last is None:
        return False
    users = users_of(last, used_by)
    # The operations inside a custom autograd.Function cannot be seen.
    return len(users) == 1 and not is_custom(users[0]) and users[0] in following.nodes


def release_graph(reading: PassReading) -> None:
    """Drop the calls' nodes: each holds the whole graph towards the inputs."""
    for call in reading.calls:
        call.nodes.clear()
        if call.activation is not None:
            call.activation.node = None


def _drop_undefined_steps(reading: PassReading) -> None:
    """Drop the optimizer steps computed from gradients that are not finite."""
    for entry, gradient in reading.gradients.items():
        if gradient.distribution is None:
            reading.update_norms.pop(entry, None)
