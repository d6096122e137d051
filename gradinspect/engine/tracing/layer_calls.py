"""The list of layer calls, built while the forward pass runs, with a reading of each input and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.autograd.graph import Node

from gradinspect.engine.arrays.units import ACTIVATION_SAMPLE, OutputLayout
from gradinspect.engine.network.parameters import ParameterEntry, owner_of
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.graph import Graph, through_reshapes
from gradinspect.engine.tracing.ledger import Ledger
from gradinspect.engine.tracing.operations import Returned
from gradinspect.engine.tracing.operator_names import ATEN_BIAS_OR_GAIN, ATEN_CHANNELS_FIRST
from gradinspect.engine.tracing.origins import DATA
from gradinspect.engine.tracing.outputs import OutputReading
from gradinspect.engine.tracing.paths.joined import feeding_calls


@dataclass(frozen=True, slots=True)
class _LastRead:
    """The tensor that was read last, which the next layer call often takes as its input."""

    tensor: torch.Tensor
    version: int
    reading: LayerCall | ActivationCall

    def holds(self, data: torch.Tensor) -> bool:
        """Check whether `data` has the same values, in whatever shape: an in-place change raises the version."""
        same = data is self.tensor or (shares_memory(data, self.tensor) and data.numel() == self.tensor.numel())
        return same and _version(self.tensor) == self.version


class LayerCalls:
    """Builds the layer calls of one forward pass.

    Args:
        ledger: takes the readings.
        samples: number of samples in the batch.
    """

    def __init__(self, ledger: Ledger, samples: int) -> None:
        self.calls: list[LayerCall] = []
        self._ledger = ledger
        self._samples = samples
        self._by_node: dict[Node, LayerCall] = {}
        self._last_read: _LastRead | None = None

    def forget_tensors(self) -> None:
        """Release the last tensor that was read."""
        self._last_read = None

    def add(self, returned: Returned, node: Node | None, *, is_activated: bool) -> LayerCall:
        """Record an operation with parameters: a new call, or the bias or gain of an earlier one.

        Args:
            node: of its output; None below the first trained parameter.
            is_activated: whether a nonlinearity takes the output next; units are then counted behind it.
        """
        operation, sources = returned.operation, returned.operation.sources
        call = self._earlier_call(returned, node)
        if call is not None:
            call.entries.extend(entry for entry in sources.entries if entry not in call.entries)
        else:
            call = LayerCall(len(self.calls), operation.name, list(sources.entries), (), operation.arguments)
            self.calls.append(call)
            self._read_input(call, sources.data)
        call.has_met_data |= sources.mark is DATA
        call.has_computed_weight |= sources.has_computed_weight
        call.applied += (operation.name.rstrip("_"),)
        call.output_shape, call.output_numel = tuple(returned.shape), returned.output.numel()
        self._read_output(call, returned, is_activated=is_activated)
        if node is not None:
            call.nodes.append(node)
            self._by_node[node] = call
        return call

    def read_activation(self, call: LayerCall, activation: ActivationCall, output: torch.Tensor) -> None:
        """Read the output of the nonlinearity behind a call."""
        self._last_read = _LastRead(output, _version(output), activation)
        # In-place calls return their own input, so the shape that counts is the layer call's.
        shape = call.output_shape if output.numel() == call.output_numel else tuple(output.shape)
        kernel = activation.activation.kernel if activation.activation is not None else None
        is_rectified = kernel is not None and kernel.is_sign_of_output
        layout = OutputLayout(shape, self._samples, call.operation in ATEN_CHANNELS_FIRST, is_rectified)
        self._ledger.output(output, layout, partial(_set_output, activation))
        call.sampled |= output.numel() > ACTIVATION_SAMPLE

    def feeding(self, source: torch.Tensor) -> list[LayerCall]:
        """Return the calls whose outputs a tensor is made of."""
        return [] if source.grad_fn is None else feeding_calls(source.grad_fn, self._by_node)

    def read_joined(self, calls: Sequence[LayerCall], activation: ActivationCall, output: torch.Tensor) -> None:
        """Read the output of a nonlinearity that these calls feed together."""
        kernel = activation.activation.kernel if activation.activation is not None else None
        is_rectified = kernel is not None and kernel.is_sign_of_output
        channels_first = any(call.operation in ATEN_CHANNELS_FIRST for call in calls)
        layout = OutputLayout(tuple(output.shape), self._samples, channels_first, is_rectified)
        self._ledger.output(output, layout, partial(_set_output, activation))
        for call in calls:
            call.joined.append(activation)

    def _read_input(self, call: LayerCall, data: torch.Tensor | None) -> None:
        if data is None:
            return
        call.input_shape = tuple(data.shape)
        if not data.is_floating_point():
            return
        if self._last_read is not None and self._last_read.holds(data):
            call.source = self._last_read.reading
            return
        call.input_numel = data.numel()
        self._ledger.norm(data, partial(setattr, call, "input_norm"))

    def _read_output(self, call: LayerCall, returned: Returned, *, is_activated: bool) -> None:
        output = returned.output
        self._last_read = _LastRead(output, _version(output), call)
        call.units = None
        if is_activated:
            self._ledger.amplitude(output, partial(setattr, call, "output"))
            return
        channels_first = returned.operation.name in ATEN_CHANNELS_FIRST
        self._ledger.output(
            output, OutputLayout(call.output_shape, self._samples, channels_first), partial(_set_output, call)
        )
        call.sampled |= output.numel() > ACTIVATION_SAMPLE

    def _earlier_call(self, returned: Returned, node: Node | None) -> LayerCall | None:
        """Return the earlier call that a separate bias or gain belongs to."""
        operation, entries = returned.operation, returned.operation.sources.entries
        if operation.name not in ATEN_BIAS_OR_GAIN or not self.calls or not all(map(_is_vector, entries)):
            return None
        if node is None:
            earlier: LayerCall | None = self.calls[-1]
        else:
            sources = [through_reshapes(child) for child, _ in node.next_functions if child is not None]
            earlier = next((self._by_node[source] for source in sources if source in self._by_node), None)
        if earlier is None or set(earlier.entries) & set(entries):
            return None
        if operation.name.rstrip("_") in earlier.applied:
            return None  # a layer has one bias and one gain; a second of a kind starts another call
        return earlier if _owners(earlier.entries) & _owners(entries) else None


def chosen_calls(calls: Sequence[LayerCall], graph: Graph) -> list[LayerCall]:
    """Choose the layer calls of the report, and number them.

    Args:
        calls: all calls, also those of parameters with constants.
        graph: of the loss.

    Returns:
        The calls that have met data: what parameters and constants make apart from those is a weight, or the state
        before the first step of a recurrence. All calls where none of these is on the way to the loss: the model's
        input is then a stored tensor or a parameter.
    """
    chosen = [call for call in calls if call.has_met_data]
    if not any(node in graph.sources for call in chosen for node in call.nodes):
        chosen = list(calls)
    for order, call in enumerate(chosen):
        call.order = order
    return chosen


def shares_memory(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Check whether two dense tensors are views of the same memory."""
    if left.layout is not torch.strided or right.layout is not torch.strided:
        return False
    return left is right or left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


def _set_output(call: LayerCall | ActivationCall, reading: OutputReading) -> None:
    call.output, call.units = reading.amplitude, reading.units
    if isinstance(call, ActivationCall) and reading.slope is not None:
        call.slope = reading.slope


def _version(tensor: torch.Tensor) -> int:
    """Return the number of in-place changes."""
    return -1 if tensor.is_inference() else tensor._version


def _is_vector(entry: ParameterEntry) -> bool:
    return sum(size != 1 for size in entry.tensor.shape) <= 1


def _owners(entries: list[ParameterEntry]) -> set[str]:
    return {owner_of(name) for entry in entries for name in entry.names}
