"""One pass: forward, loss, backward, with everything summarised while it is there.

Source of the method: the chain rule as autograd stores it. A prehook on a layer call's node sees δ, the gradient of
the loss with respect to the call's output; a hook behind each parameter's accumulation sees the finished gradient and
frees it, so that never more than one gradient is alive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.forward import ForwardRecorder, LayerCall
from gradinspect.engine.graph import consumers, consumers_first, next_calls, through_reshapes
from gradinspect.engine.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.statistics import Distribution, Moments, distribution, dot, moments, norm

LossFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class GradientReading:
    """What is kept of one parameter's gradient.

    Attributes:
        moments: sums over all elements.
        distribution: quantiles and exponents; None where a value is not finite.
        weight_product: ⟨W, dL/dW⟩.
        update_norm: l2 norm of the declared optimizer's first step, None without one.
    """

    moments: Moments
    distribution: Distribution | None
    weight_product: float
    update_norm: float | None


@dataclass
class PassReading:
    """Everything one pass has shown.

    Attributes:
        loss: the mean-reduced loss.
        output_shape: shape of the model's output.
        calls: layer calls in order.
        signals: call order → ‖δ‖, NaN where it is not finite; calls that no gradient reaches are left out.
        signals_after: call order → ‖gradient at the output of its nonlinearity‖.
        following: call order → order of the next call towards the loss.
        direct: call orders whose output reaches the next call unbranched and through reshapes alone.
        gradients: readings of the parameters that got a gradient.
    """

    loss: float
    output_shape: tuple[int, ...]
    calls: list[LayerCall]
    signals: dict[int, float] = field(default_factory=dict)
    signals_after: dict[int, float] = field(default_factory=dict)
    following: dict[int, int] = field(default_factory=dict)
    direct: set[int] = field(default_factory=set)
    gradients: dict[ParameterEntry, GradientReading] = field(default_factory=dict)


UpdateNorm = Callable[[torch.Tensor, torch.Tensor], float]


def run_pass(
    model: nn.Module,
    parameters: ParameterIndex,
    inputs: Sequence[torch.Tensor],
    loss_function: LossFunction,
    *,
    update_norm: UpdateNorm | None = None,
    stage: Callable[[str], None] = lambda _name: None,
) -> PassReading:
    """Run the model forwards and backwards once and summarise both.

    Args:
        model: eager, scripted or traced; its gradients are left as they were.
        inputs: what `model(*inputs)` takes; the first axis counts samples.
        loss_function: from the model's output to a scalar.
        update_norm: from (weight, gradient) to the norm of the optimizer's first step.
        stage: told "forward" and "backward" when they begin.

    Raises:
        InspectionError: `data_mismatch` when the model does not take the inputs, `no_gradient` when nothing that
            requires a gradient reaches the loss.

    Cost: one forward and one backward pass, plus the statistics; peak memory under a bare backward's, because each
    gradient is freed once it is read.
    """
    stage("forward")
    recorder = ForwardRecorder(parameters, inputs)
    with recorder, _as_data_mismatch(inputs):
        output = first_tensor(model(*inputs))
    loss = loss_function(output)
    if loss.grad_fn is None:
        raise InspectionError("no_gradient", _why_no_gradient(parameters))
    reading = PassReading(float(loss.detach()), tuple(output.shape), recorder.calls)
    _trace_graph(loss.grad_fn, reading)
    stage("backward")
    with _clean_gradients(parameters), _watching(reading, parameters, update_norm):
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return reading


def first_tensor(output: Any) -> torch.Tensor:  # Any: a model may return whatever it likes
    """The first floating-point tensor of a model's output: itself, or in order in tuples, lists and dicts.

    Raises:
        InspectionError: `data_mismatch` when there is none.
    """
    if isinstance(output, torch.Tensor):
        return output
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    for part in parts:
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            return part
    raise InspectionError("data_mismatch", f"the model returned {type(output).__name__}, which holds no float tensor")


def _why_no_gradient(parameters: ParameterIndex) -> str:
    count = len(parameters.entries)
    if count == 0:
        return "the model has no parameters (a frozen TorchScript file keeps its weights as constants)"
    if not any(entry.requires_grad for entry in parameters):
        return f"all {count} parameters have requires_grad=False"
    return "no parameter that requires a gradient reaches the output; look for detach() or no_grad() on the way"


def _trace_graph(root: Node, reading: PassReading) -> None:
    order = consumers_first(root)
    call_of = {node: call.order for call in reading.calls for node in call.nodes}
    reading.following = next_calls(order, call_of)
    used_by = consumers(order)
    node_of = {call.order: call for call in reading.calls}
    for call in reading.calls:
        if call.node is None:
            continue
        activation = call.activation
        if activation is not None and _only_user(used_by, call.node) is not activation.node:
            call.activation = None  # the output goes elsewhere too (x·σ(x) by hand): no gain of its own can be given
            activation = None
        last = activation.node if activation is not None else call.node
        following = reading.following.get(call.order)
        if following is not None and last is not None and _only_user(used_by, last) in node_of[following].nodes:
            reading.direct.add(call.order)


def _only_user(used_by: dict[Node, list[Node]], node: Node) -> Node | None:
    """The one node that uses this node's output, past reshapes; None where there are several."""
    current = node
    while True:
        users = used_by.get(current, [])
        if len(users) != 1:
            return None
        current = users[0]
        if through_reshapes(current) is current:
            return current


@contextmanager
def _as_data_mismatch(inputs: Sequence[torch.Tensor]) -> Iterator[None]:
    """Turn what a model raises on its inputs into the caller's named error."""
    try:
        yield
    except InspectionError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError, KeyError) as error:
        if "allocate memory" in str(error):
            raise
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in inputs)
        reason = _last_line(str(error))
        raise InspectionError("data_mismatch", f"the model does not take inputs {shapes}: {reason}") from error


def _last_line(message: str) -> str:
    """The sentence of an error message; TorchScript puts a traceback before it."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:500]


@contextmanager
def _clean_gradients(parameters: ParameterIndex) -> Iterator[None]:
    """Set the caller's gradients aside, and put them back."""
    members = [member for entry in parameters for member in entry.members]
    kept = [member.grad for member in members]
    for member in members:
        member.grad = None
    try:
        yield
    finally:
        for member, gradient in zip(members, kept, strict=True):
            member.grad = gradient


@contextmanager
def _watching(reading: PassReading, parameters: ParameterIndex, update_norm: UpdateNorm | None) -> Iterator[None]:
    handles = []
    for call in reading.calls:
        if call.node is not None:
            handles.append(call.node.register_prehook(partial(_note_signal, reading.signals, call.order)))
        if call.activation is not None and call.activation.node is not None:
            handles.append(
                call.activation.node.register_prehook(partial(_note_signal, reading.signals_after, call.order))
            )
    shared: dict[ParameterEntry, torch.Tensor] = {}
    for entry in parameters:
        for member in entry.members:
            if member.requires_grad:
                hook = partial(_note_gradient, reading, entry, shared, update_norm)
                handles.append(member.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        yield
        for entry, gradient in shared.items():
            reading.gradients[entry] = _read_gradient(entry.tensor, gradient, update_norm)
    finally:
        for handle in handles:
            handle.remove()


def _note_signal(signals: dict[int, float], order: int, gradients: Sequence[torch.Tensor | None]) -> None:
    delta = gradients[0]
    if delta is not None:
        signals[order] = norm(delta)


def _note_gradient(
    reading: PassReading,
    entry: ParameterEntry,
    shared: dict[ParameterEntry, torch.Tensor],
    update_norm: UpdateNorm | None,
    member: torch.Tensor,
) -> None:
    gradient = member.grad
    member.grad = None
    if gradient is None:
        return
    if len(entry.members) > 1:  # one tensor under several parameter objects: its gradient is the sum of theirs
        shared[entry] = shared[entry] + gradient if entry in shared else gradient
    else:
        reading.gradients[entry] = _read_gradient(member, gradient, update_norm)


def _read_gradient(weight: torch.Tensor, gradient: torch.Tensor, update_norm: UpdateNorm | None) -> GradientReading:
    sums = moments(gradient)
    finite = not (sums.nan_count or sums.inf_count)
    return GradientReading(
        sums,
        distribution(gradient) if finite else None,
        dot(weight, gradient) if finite and not gradient.is_sparse else math.nan,
        update_norm(weight, gradient) if finite and update_norm is not None else None,
    )
