"""The first pass of a training step, read while the caller's own loop runs it; nothing is run twice.

The readings are those of `TracedPass`: values as the forward pass makes them, signals and gradients from hooks of the
backward pass. Gradients are left in place, since the optimizer needs them, and its step is measured as it is: ‖Δw‖ of
each parameter, after unscaling, clipping and whatever state the optimizer has.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradinspect.engine.arrays.deferred import as_floats, length
from gradinspect.engine.network.batch import digest, tensors_in
from gradinspect.engine.network.outputs import named_tensors
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.backward import BackwardReader
from gradinspect.engine.tracing.forward import ForwardRecorder
from gradinspect.engine.tracing.graph import Graph, read_graph
from gradinspect.engine.tracing.layer_calls import chosen_calls
from gradinspect.engine.tracing.output_use import OutputEdges, OutputUse
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import ledger_for, release_graph, trace_graph

_patching = threading.Lock()


class _Hook:
    """A hook of one model. Its copies do nothing, so a model can be copied and saved while it is watched."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:  # Any: of torch's hooks, here and below
        self._call(*arguments)

    def __reduce__(self) -> tuple[type[_Hook], tuple[Callable[..., None]]]:
        return _Hook, (_do_nothing,)


def _do_nothing(*_: object) -> None:
    """Stand in for a hook in a copy of a watched model."""


class _KeepingReader(BackwardReader):
    """A reader that leaves every gradient to the optimizer."""

    def _take_gradient(self, member: torch.Tensor) -> None:
        gradient = member.grad
        super()._take_gradient(member)
        member.grad = gradient


class ObservedPass:
    """Observes one training step of a model, from its first forward pass to the optimizer's step.

    Args:
        model: is trained by the caller; hooks are removed by `detach`.
        loss_factor: returns the factor by which the tensor whose `backward` is called exceeds the mean loss: the scale
            of mixed precision, divided by the number of accumulated micro-batches.
        on_end: called once, by `finish`, or as soon as gradients are not finite.

    Attributes:
        reading: None before the backward pass.
        digest: SHA-256 of the inputs of the first forward pass.
        learning_rates: of each parameter group.
        applied_grad_norm: l2 norm of the gradients that the optimizer received; None where it made no step.
        micro_batches: backward passes up to the optimizer's step.

    Cost: the statistics of a pass; a copy of the parameters while the optimizer steps.
    """

    def __init__(
        self, model: nn.Module, *, loss_factor: Callable[[], float], on_end: Callable[[ObservedPass], None]
    ) -> None:
        self.model = model
        self.parameters = ParameterIndex(model)
        self.reading: PassReading | None = None
        self.digest: str | None = None
        self.learning_rates: tuple[float, ...] = ()
        self.applied_grad_norm: float | None = None
        self.micro_batches = 0
        self.loss_factor = 1.0
        self._factor_now, self._on_end = loss_factor, on_end
        self._ledger = ledger_for(self.parameters)
        self._recorder: ForwardRecorder | None = None
        self._depth = 0  # of module calls inside each other
        self._edges: OutputEdges | None = None
        self._output_shape: tuple[int, ...] = ()
        self._before: dict[ParameterEntry, torch.Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._restore_backward: Callable[[], None] = lambda: None

    def attach(self) -> None:
        """Begin to observe: the next forward pass of the model, or of its modules that have parameters, is recorded."""
        enter, leave = _Hook(self._enter_module), _Hook(self._leave_module)
        for module in self.model.modules():
            if module is self.model or next(module.parameters(), None) is not None:
                self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                self._handles.append(module.register_forward_hook(leave, always_call=True))
        self._handles.append(register_optimizer_step_pre_hook(self._before_step))
        self._restore_backward = _replaced_backward(self._backward)

    def detach(self) -> None:
        """Stop to observe, whatever state the step is in."""
        self._restore_backward()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._before.clear()

    def finish(self) -> bool:
        """Measure the step that an optimizer has just made, and end; False where no pass was read before it."""
        reading = self.reading
        if reading is None or self.applied_grad_norm is None:
            return False
        entries = [entry for entry in self._before if entry in reading.gradients]
        moves = as_floats([length(entry.tensor.detach() - self._before[entry]) for entry in entries])
        reading.update_norms |= dict(zip(entries, moves, strict=True))
        self._end()
        return True

    def _enter_module(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1 or self.reading is not None or not torch.is_grad_enabled():
            return
        if self._recorder is None:
            inputs = tensors_in((args, kwargs))
            self.digest = digest(inputs)
            self._recorder = ForwardRecorder(self.parameters, inputs, self._ledger)
        self._recorder.__enter__()

    def _leave_module(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth > 0 or self.reading is not None or self._recorder is None or not torch.is_grad_enabled():
            return
        self._recorder.__exit__(None, None, None)
        first = next(named_tensors(output), None) if output is not None else None
        if first is not None:
            self._edges, self._output_shape = OutputEdges(output), tuple(first[1].shape)

    def _backward(self, loss: torch.Tensor, backward: Callable[[], None]) -> None:
        """Run a backward pass, and read it if it is the first one of the recorded forward pass."""
        graph = read_graph(loss.grad_fn) if self._awaits(loss) and loss.grad_fn is not None else None
        if graph is None or self._recorder is None or not _holds_a_call(graph, self._recorder):
            self.micro_batches += self.reading is not None
            backward()
            return
        self.micro_batches = 1
        self.loss_factor = self._factor_now()
        reading = self._trace(loss, graph, self._recorder)
        reader = _KeepingReader(reading, self.parameters, self._ledger)
        with reader.watching():
            backward()
        release_graph(reading)
        for entry in self.parameters:
            self._ledger.mean_and_rms(entry.tensor, partial(reading.weights.__setitem__, entry))
        self._ledger.settle()
        reading.loss = float(loss.detach()) / self.loss_factor
        self.reading, self._recorder = reading, None
        if not _is_finite(reading):
            self._end()  # mixed precision leaves out this step

    def _awaits(self, loss: torch.Tensor) -> bool:
        return self.reading is None and self._recorder is not None and loss.grad_fn is not None

    def _trace(self, loss: torch.Tensor, graph: Graph, recorder: ForwardRecorder) -> PassReading:
        assert loss.grad_fn is not None
        calls = chosen_calls(recorder.calls, graph)
        use = self._edges.use(loss.grad_fn, self.parameters) if self._edges is not None else OutputUse()
        reading = PassReading(math.nan, self._output_shape, calls, loss_scale=self.loss_factor, outputs=use)
        trace_graph(graph, reading, recorder.nonlinearities)
        return reading

    def _before_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if self.reading is None or not self._is_mine(optimizer):
            return
        self.learning_rates += tuple(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)
        gradients = [entry.tensor.grad for entry in self._stepped_by(optimizer) if entry.tensor.grad is not None]
        norms = as_floats([length(gradient.detach()) for gradient in gradients])
        self.applied_grad_norm = math.hypot(self.applied_grad_norm or 0.0, *norms)
        self._before |= {entry: entry.tensor.detach().clone() for entry in self._stepped_by(optimizer)}

    def _end(self) -> None:
        self.detach()
        self._on_end(self)

    def _is_mine(self, optimizer: Optimizer) -> bool:
        return next(self._stepped_by(optimizer), None) is not None

    def _stepped_by(self, optimizer: Optimizer) -> Iterator[ParameterEntry]:
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                entry = self.parameters.of_object(tensor)
                if entry is not None:
                    yield entry


@contextmanager
def counted_steps(parameters: Sequence[torch.Tensor], count: Callable[[Optimizer], None]) -> Iterator[None]:
    """Call `count` after each step of the first optimizer seen that trains any of the parameters."""
    mine = {id(tensor) for tensor in parameters}
    chosen: list[Optimizer] = []

    def after(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not chosen and any(id(tensor) in mine for group in optimizer.param_groups for tensor in group["params"]):
            chosen.append(optimizer)
        if chosen and optimizer is chosen[0]:
            count(optimizer)

    handle = register_optimizer_step_post_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _replaced_backward(read: Callable[[torch.Tensor, Callable[[], None]], None]) -> Callable[[], None]:
    """Have `Tensor.backward` call `read`; return a function that restores it.

    A torch-function mode would do the same, but modes end in the reverse order of their beginning, and a training step
    may begin inside a caller's mode and end outside.
    """
    with _patching:
        original = torch.Tensor.backward

        def backward(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            read(self, partial(original, self, *args, **kwargs))

        torch.Tensor.backward = backward  # type: ignore[method-assign]  # restored below

    def restore() -> None:
        with _patching:
            if torch.Tensor.backward is backward:
                torch.Tensor.backward = original  # type: ignore[method-assign]  # as it was

    return restore


def _holds_a_call(graph: Graph, recorder: ForwardRecorder) -> bool:
    return any(node in graph.sources for call in recorder.calls for node in call.nodes)


def _is_finite(reading: PassReading) -> bool:
    return math.isfinite(reading.loss) and all(each.moments.is_finite for each in reading.gradients.values())
