"""Hooks for one backward pass: each signal is read as it passes, each gradient once it is finished, and then freed."""

from __future__ import annotations

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
from gradinspect.engine.tracing.ledger import Ledger
from gradinspect.engine.tracing.readings import GradientReading, PassReading


@contextmanager
def clean_gradients(parameters: ParameterIndex) -> Iterator[None]:
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
def watching(
    reading: PassReading, parameters: ParameterIndex, first_step: FirstStep | None, ledger: Ledger
) -> Iterator[None]:
    handles = []
    between: dict[int, torch.Tensor] = {}  # gradients behind nonlinearities whose slope is read from both sides
    for call in reading.calls:
        activation = call.activation
        if call.node is not None:
            handles.append(call.node.register_prehook(partial(_note_signal, reading, call, between, ledger)))
        if activation is not None and activation.node is not None:
            handles.append(activation.node.register_prehook(partial(_note_after, reading, call, between, ledger)))
    shared: dict[ParameterEntry, torch.Tensor] = {}
    note = partial(_note_gradient, reading, parameters, shared, first_step, ledger)
    for entry in parameters:
        for member in entry.members:
            if member.requires_grad:
                handles.append(member.register_post_accumulate_grad_hook(note))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        yield
        for entry, gradient in shared.items():
            _read_gradient(reading, entry, entry.tensor, gradient, first_step, ledger)
    finally:
        for handle in handles:
            handle.remove()


def _note_after(
    reading: PassReading,
    call: LayerCall,
    between: dict[int, torch.Tensor],
    ledger: Ledger,
    gradients: Sequence[torch.Tensor | None],
) -> None:
    delta = gradients[0]
    if delta is None:
        return
    ledger.norm(delta, partial(_keep_unscaled, reading.signals_after, call.order, reading.loss_scale))
    if call.activation is not None and call.activation.activation is None and call.activation.is_elementwise:
        between[call.order] = delta


def _note_signal(
    reading: PassReading,
    call: LayerCall,
    between: dict[int, torch.Tensor],
    ledger: Ledger,
    gradients: Sequence[torch.Tensor | None],
) -> None:
    # A fused recurrent layer has several outputs, of which the loss may use only the last states.
    delta = next((gradient for gradient in gradients if gradient is not None), None)
    if delta is None:
        return
    reading.signal_sizes[call.order] = delta.numel()
    ledger.norm(delta, partial(_keep_unscaled, reading.signals, call.order, reading.loss_scale))
    after = between.pop(call.order, None)
    if after is not None and call.activation is not None and after.numel() == delta.numel():
        slope, known = slope_between(delta, after)
        ledger.slope(slope, call.activation.largest_slope, partial(setattr, call.activation, "slope"), known)


def _keep_unscaled(norms: dict[int, float], order: int, loss_scale: float, value: float) -> None:
    norms[order] = value / loss_scale


def _note_gradient(
    reading: PassReading,
    parameters: ParameterIndex,
    shared: dict[ParameterEntry, torch.Tensor],
    first_step: FirstStep | None,
    ledger: Ledger,
    member: torch.Tensor,
) -> None:
    gradient = member.grad
    member.grad = None
    entry = parameters.of_object(member)
    if gradient is None or entry is None:
        return
    if len(entry.members) > 1:  # one tensor under several parameter objects: its gradient is the sum of theirs
        shared[entry] = shared[entry] + gradient if entry in shared else gradient
    else:
        _read_gradient(reading, entry, member, gradient, first_step, ledger)


def _read_gradient(
    reading: PassReading,
    entry: ParameterEntry,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    first_step: FirstStep | None,
    ledger: Ledger,
) -> None:
    def note(sums: Moments, spread: Distribution | None, product: float) -> None:
        reading.gradients[entry] = GradientReading(sums, spread, product)

    if reading.loss_scale != 1.0:  # in float32, where a small quotient of half-precision values stays
        gradient = (gradient if gradient.dtype in _WIDE else gradient.float()) / reading.loss_scale
    ledger.gradient(weight if entry in reading.balanced else None, gradient, note)
    if first_step is not None:
        factor = first_step.factor
        step = first_step.direction(weight.detach(), gradient)
        ledger.norm(step, lambda length: reading.update_norms.__setitem__(entry, factor * length))


_WIDE = (torch.float32, torch.float64)
