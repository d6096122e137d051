"""One pass: forward, loss, backward, with everything summarised while it is there.

Source of the method: the chain rule as autograd stores it. A prehook on a layer call's node sees δ, the gradient of
the loss with respect to the call's output; a hook behind each parameter's accumulation sees the finished gradient and
frees it, so that never more than one gradient is alive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.optimizers import FirstStep
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.backward import clean_gradients, watching
from gradinspect.engine.tracing.device_ledger import DeviceLedger
from gradinspect.engine.tracing.forward import ForwardRecorder
from gradinspect.engine.tracing.graph import consumers, next_calls, read_graph
from gradinspect.engine.tracing.ledger import HostLedger, Ledger
from gradinspect.engine.tracing.nonlinearities import Nonlinearities, users_of
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.theory import homogeneous_weights

__all__ = ["LossFunction", "PassReading", "first_tensor", "run_pass"]

LossFunction = Callable[[torch.Tensor], torch.Tensor]


def run_pass(
    model: nn.Module,
    parameters: ParameterIndex,
    inputs: Sequence[torch.Tensor],
    loss_function: LossFunction,
    *,
    first_step: FirstStep | None = None,
    stage: Callable[[str], None] = lambda _name: None,
    ledger: Ledger | None = None,
    record_layers: bool = True,
    casting: AbstractContextManager[object] | None = None,
    loss_scale: float = 1.0,
) -> PassReading:
    """Run the model forwards and backwards once and summarise both.

    Args:
        model: eager, scripted or traced; its gradients are left as they were.
        inputs: what `model(*inputs)` takes; the first axis counts samples.
        loss_function: from the model's output to a scalar.
        first_step: the declared optimizer, for the norms of its updates.
        stage: told "forward" and "backward" when they begin.
        ledger: takes the readings; by default one that fits the device of the parameters.
        record_layers: False for the parameters' gradients alone.
        casting: entered while the model runs (autocast); the loss function sees to itself.
        loss_scale: multiplies the loss before the backward pass, as mixed-precision training does; what is read is
            divided by it again.

    Raises:
        InspectionError: `data_mismatch` when the model does not take the inputs, `no_gradient` when nothing that
            requires a gradient reaches the loss.

    Cost: one forward and one backward pass, plus the statistics; peak memory under a bare backward's, because each
    gradient is freed once it is read. On a device one synchronisation, at the end.
    """
    ledger = ledger if ledger is not None else _ledger_for(parameters)
    stage("forward")
    recorder = ForwardRecorder(parameters, inputs, ledger)
    with torch.enable_grad():
        recording = recorder if record_layers else nullcontext()
        with casting or nullcontext(), recording, _as_data_mismatch(inputs, recorder):
            output = first_tensor(model(*inputs))
        loss = loss_function(output)
    if loss.grad_fn is None:
        raise InspectionError("no_gradient", _why_no_gradient(model, parameters))
    reading = PassReading(math.nan, tuple(output.shape), recorder.calls, loss_scale=loss_scale)
    if record_layers:
        _trace_graph(loss.grad_fn, reading, recorder.nonlinearities)
    stage("backward")
    del output
    with clean_gradients(parameters), watching(reading, parameters, first_step, ledger):
        (loss if loss_scale == 1.0 else loss * loss_scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    _let_go_of_graph(reading)
    for entry in parameters:
        ledger.spread(entry.tensor, partial(reading.weights.__setitem__, entry))
    ledger.settle()
    reading.loss = float(loss.detach())
    _drop_unfinished(reading)
    return reading


def _ledger_for(parameters: ParameterIndex) -> Ledger:
    on_device = any(entry.tensor.device.type != "cpu" for entry in parameters)
    return DeviceLedger() if on_device else HostLedger()


def _let_go_of_graph(reading: PassReading) -> None:
    """Nothing asks for a call's nodes after the backward pass, and each holds the whole graph towards the inputs."""
    for call in reading.calls:
        call.nodes.clear()
        if call.activation is not None:
            call.activation.node = None


def _drop_unfinished(reading: PassReading) -> None:
    """A step computed from a gradient that is not finite says nothing."""
    for entry, gradient in reading.gradients.items():
        if gradient.distribution is None:
            reading.update_norms.pop(entry, None)


def first_tensor(output: Any) -> torch.Tensor:  # Any: a model may return whatever it likes
    """The first floating-point tensor of a model's output: itself, or in order in tuples, lists and dicts.

    Raises:
        InspectionError: `data_mismatch` when there is none.
    """
    found = next(_float_tensors(output), None)
    if found is None:
        kind = str(output.dtype) if isinstance(output, torch.Tensor) else type(output).__name__
        raise InspectionError("data_mismatch", f"the model returned {kind}, which holds no floating-point tensor")
    return found


def _float_tensors(output: Any) -> Iterator[torch.Tensor]:  # Any: likewise
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() or output.is_complex():
            yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _float_tensors(part)


def _why_no_gradient(model: nn.Module, parameters: ParameterIndex) -> str:
    count = len(parameters.entries)
    if count == 0:
        if isinstance(model, torch.jit.ScriptModule):
            return "the model has no parameters; a frozen TorchScript file keeps its weights as constants"
        return "the model has no parameters; add a layer that has some, such as Linear"
    if not any(entry.requires_grad for entry in parameters):
        return f"all {count} parameters have requires_grad=False"
    return "no parameter that requires a gradient reaches the output; look for detach() or no_grad() on the way"


def _trace_graph(root: Node, reading: PassReading, nonlinearities: Nonlinearities) -> None:
    graph = read_graph(root)
    call_of = {node: call.order for call in reading.calls for node in call.nodes}
    reading.following = next_calls(graph, call_of)
    used_by = consumers(graph)
    for call in reading.calls:
        if call.node is None:
            continue
        call.activation = nonlinearities.resolve(call, used_by)
        last = call.activation.node if call.activation is not None else call.node
        following = reading.following.get(call.order)
        if following is not None and last is not None:
            users = users_of(last, used_by)
            is_open = not any(map(nonlinearities.is_custom, users))  # an author's own function hides what it holds
            if len(users) == 1 and is_open and users[0] in reading.calls[following].nodes:
                reading.direct.add(call.order)
    if len(reading.direct) == len(reading.calls) - 1:
        reading.balanced = homogeneous_weights(reading.calls)


@contextmanager
def _as_data_mismatch(inputs: Sequence[torch.Tensor], recorder: ForwardRecorder) -> Iterator[None]:
    """Turn what a model raises on its inputs into the caller's named error."""
    try:
        yield
    except InspectionError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError, KeyError) as error:
        seen = recorder.failure or error
        if "allocate memory" in str(seen):
            raise seen from None
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in inputs)
        reason = _last_line(str(seen))
        raise InspectionError("data_mismatch", f"the model does not take inputs {shapes}: {reason}") from seen


def _last_line(message: str) -> str:
    """The sentence of an error message; TorchScript puts a traceback before it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:500]
