"""Read one backward pass through hooks: each signal as it passes, each gradient once it is complete and then freed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from gradinspect.engine.arrays.distributions import Distribution
from gradinspect.engine.arrays.statistics import Moments
from gradinspect.engine.network.optimizers import FirstStep
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.tracing.activations import slope_between
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.graph import Graph
from gradinspect.engine.tracing.ledger import HostLedger, Ledger, read_slope
from gradinspect.engine.tracing.readings import GradientReading, PassReading, StepReading

_FULL_PRECISION = (torch.float32, torch.float64)

_STEP_SAMPLE = 1024  # chosen: elements of a parameter on which the step is tried
_ROW_SAMPLE, _COLUMN_SAMPLE = 256, 32  # chosen: equal in all of these by chance is impossible for drawn weights
_ROUNDING = 1e-4  # of the largest element: equal rows of a gradient may be summed in different orders

Gradients = Sequence[torch.Tensor | None]


def outside_leaves(graph: Graph, parameters: ParameterIndex) -> list[torch.Tensor]:
    """Return the leaves of a graph that are no parameters of the model.

    They belong to the loss, to another network inside it, to the inputs, or to layers that no module registers.
    """
    leaves = [getattr(node, "variable", None) for node in graph.order if not graph.sources[node]]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and parameters.of_object(leaf) is None]


@contextmanager
def clean_gradients(parameters: ParameterIndex, outside: Sequence[torch.Tensor]) -> Iterator[None]:
    """Set the gradients of the parameters and of other leaves aside, and restore them."""
    members = [*(member for entry in parameters for member in entry.members), *outside]
    saved = [member.grad for member in members]
    for member in members:
        member.grad = None
    try:
        yield
    finally:
        for member, gradient in zip(members, saved, strict=True):
            member.grad = gradient


class BackwardReader:
    """Fills a `PassReading` while a backward pass runs.

    Args:
        reading: of the forward pass; takes signals, gradients and update norms.
        parameters: the model's parameters.
        ledger: takes the tensors.
        first_step: of the declared optimizer, for the norms of its updates.
    """

    def __init__(
        self, reading: PassReading, parameters: ParameterIndex, ledger: Ledger, first_step: FirstStep | None = None
    ) -> None:
        self._reading = reading
        self._parameters = parameters
        self._ledger = ledger
        self._first_step = first_step
        # Gradients behind nonlinearities whose slope is computed from both sides, by call order.
        self._behind: dict[int, torch.Tensor] = {}
        # Gradients of tensors with several parameter objects, summed up so far.
        self._shared: dict[ParameterEntry, torch.Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read every backward pass inside the `with` block; the block must hold one."""
        handles = []
        for call in self._reading.calls:
            activation = call.activation
            if call.node is not None:
                handles.append(call.node.register_prehook(partial(self._read_signal, call)))
            if activation is not None and activation.node is not None:
                handles.append(activation.node.register_prehook(partial(self._read_behind, call)))
        for entry in self._parameters:
            for member in entry.members:
                if member.requires_grad:
                    handles.append(member.register_post_accumulate_grad_hook(self._take_gradient))
        try:
            yield
            for entry, gradient in self._shared.items():
                self._read_gradient(entry, entry.tensor, gradient)
        finally:
            for handle in handles:
                handle.remove()

    def _read_behind(self, call: LayerCall, gradients: Gradients) -> None:
        """Read the gradient with respect to the output of a call's nonlinearity."""
        delta = gradients[0]
        if delta is None:
            return
        self._ledger.norm(delta, partial(self._set_unscaled, self._reading.signals_after, call.order))
        if call.activation is not None and call.activation.activation is None and call.activation.is_elementwise:
            self._behind[call.order] = delta

    def _read_signal(self, call: LayerCall, gradients: Gradients) -> None:
        """Read the backward signal δ of a call, and the slope of a nonlinearity of several operations."""
        # A fused recurrent layer has several outputs, and the loss may use only the last states.
        delta = next((gradient for gradient in gradients if gradient is not None), None)
        if delta is None:
            return
        self._reading.signal_sizes[call.order] = delta.numel()
        self._ledger.norm(delta, partial(self._set_unscaled, self._reading.signals, call.order))
        behind = self._behind.pop(call.order, None)
        if behind is not None and call.activation is not None and behind.numel() == delta.numel():
            slope, known = slope_between(delta, behind)
            activation = call.activation
            read_slope(self._ledger, slope, activation.largest_slope, partial(setattr, activation, "slope"), known)

    def _set_unscaled(self, norms: dict[int, float], order: int, value: float) -> None:
        norms[order] = value / self._reading.loss_scale

    def _take_gradient(self, member: torch.Tensor) -> None:
        """Take a complete gradient from its parameter object, so that never more than one is in memory."""
        gradient = member.grad
        member.grad = None
        entry = self._parameters.of_object(member)
        if gradient is None or entry is None:
            return
        if len(entry.members) == 1:
            self._read_gradient(entry, member, gradient)
        elif entry in self._shared:  # the gradient of one tensor in several parameter objects is the sum of theirs
            self._shared[entry] = self._shared[entry] + gradient
        else:
            self._shared[entry] = gradient

    def _read_gradient(self, entry: ParameterEntry, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        reading = self._reading

        def give(sums: Moments, distribution: Distribution | None, product: float) -> None:
            reading.gradients[entry] = GradientReading(sums, distribution, product)

        if reading.loss_scale != 1.0:
            # In float32: in half precision a small quotient would become zero.
            wide = gradient if gradient.dtype in _FULL_PRECISION else gradient.float()
            gradient = wide / reading.loss_scale
        self._ledger.gradient(weight if entry in reading.balanced else None, gradient, give)
        self._read_rows(entry, weight.detach(), gradient)
        if self._first_step is not None:
            self._read_step(self._first_step, entry, weight.detach(), gradient)
            factor = self._first_step.factor
            step = self._first_step.direction(weight.detach(), gradient)
            self._ledger.norm(step, lambda norm: reading.update_norms.__setitem__(entry, factor * norm))

    def _read_step(
        self, first_step: FirstStep, entry: ParameterEntry, weight: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Take the optimizer's first step on a sample of the elements; optimizers move each element by itself."""
        if gradient.layout is not torch.strided or not weight.numel():
            return
        stride = max(1, weight.numel() // _STEP_SAMPLE)
        before, slope = weight.reshape(-1)[::stride], gradient.reshape(-1)[::stride]
        after = first_step.applied(before, slope)
        nonfinite = (~torch.isfinite(after)).sum()
        sizes = first_step.direction(before.double(), slope.double()).abs()
        lost = torch.where(after == before, sizes, 0.0).sum()
        count = before.numel()

        def give(numbers: Sequence[float]) -> None:
            share = numbers[1] / numbers[2] if math.isfinite(numbers[2]) and numbers[2] > 0 else 0.0
            self._reading.steps[entry] = StepReading(numbers[0] / count, share)

        self._ledger.scalars([nonfinite, lost, sizes.sum()], give)

    def _read_rows(self, entry: ParameterEntry, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Compare each row of a sample of a matrix, and of its gradient, with the row before."""
        if gradient.layout is not torch.strided or not _is_matrix(weight):
            return
        rows = _corner(weight)
        is_same = (rows[1:] == rows[:-1]).all(1)
        if isinstance(self._ledger, HostLedger) and not bool(is_same.any()):
            return
        slopes = _corner(gradient).abs(), _corner(gradient)
        largest = slopes[0].amax()
        is_same &= ((slopes[1][1:] - slopes[1][:-1]).abs() <= _ROUNDING * largest).all(1) & (slopes[0][1:] > 0).any(1)

        def give(numbers: Sequence[float]) -> None:
            if numbers[0]:
                self._reading.repeated_rows[entry] = numbers[0]

        self._ledger.scalars([is_same.double().mean()], give)


def _is_matrix(weight: torch.Tensor) -> bool:
    """Check for two or more axes longer than 1; scales or shifts of shape (channels, 1, 1) are vectors."""
    axes = weight.dim()
    return (
        axes > 1 and weight.shape[0] > 1 and (weight.numel() > max(weight.shape) or (axes == 2 and weight.numel() > 1))
    )


def _corner(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sample of the rows and columns of a matrix."""
    rows = tensor[:: max(1, tensor.shape[0] // _ROW_SAMPLE)].flatten(1)
    return rows[:, :: max(1, rows.shape[1] // _COLUMN_SAMPLE)]
