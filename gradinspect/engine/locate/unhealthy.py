"""Whether a pass was healthy, and what is wrong where it was not. A healthy pass costs nothing more."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from gradinspect.contracts.report.operations import MAX_FAULTS, Fault, Operation, OperationInput
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.first_pass import Subject
from gradinspect.engine.locate.locate import COST_IN_PASSES, UnhealthyPass, locate
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.fixed_loss import FixedLoss
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex, owner_of
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs, seeded
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.readings import PassReading

MOSTLY = 0.5  # chosen: where half of what does meet the map is zero as well, padding does not explain it
VANISHED = 1e-6  # of the largest signal; the default threshold of a failing `vanishing_signal`
_CONVOLUTIONS = frozenset({"convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"})


def locate_faults(s: SectionInput) -> tuple[Fault, ...]:
    """Name the operations at which a pass breaks; none where it was healthy.

    Args:
        s: the first pass and its inputs.

    Cost: nothing where the pass was healthy, else as `locate`; left out where the budget does not allow it.
    """
    faults = list(_only_padding(s.reading))
    if not is_healthy(s) and s.budget.allows(COST_IN_PASSES * s.pass_seconds):
        faults = [*_zero_states(s), *_without_raising(unhealthy_pass(s), s.settings.mode), *faults]
    return tuple(faults[:MAX_FAULTS])


def is_healthy(s: SectionInput) -> bool:
    """Check that everything is finite, and that every trained parameter and every call gets a signal."""
    reading = s.reading
    if not math.isfinite(reading.loss) or _has_non_finite_output(reading):
        return False
    for entry in s.parameters:
        gradient = reading.gradients.get(entry)
        if entry.requires_grad and (gradient is None or not gradient.moments.is_finite or not gradient.moments.nonzero):
            return False
    signals = reading.signals.values()
    return all(signal > VANISHED * max(signals) for signal in signals)  # NaN compares as False


def unhealthy_pass(s: SectionInput) -> UnhealthyPass:
    """Return the pass of a section's input, with the same random draws each time it is run."""
    return UnhealthyPass(
        model=s.model,
        parameters=s.parameters,
        inputs=s.batch.inputs,
        target=s.target,
        loss_of=s.loss_of,
        prepared=lambda: seeded(s.seed, s.device),
        casting=lambda: casting(s.settings.precision, s.device),
        loss_scale=s.reading.loss_scale,
    )


def locate_cut(
    subject: Subject, settings: InspectionSettings, loss_of: FixedLoss, device: torch.device
) -> Fault | None:
    """Name the operation that cuts all parameters from the loss, for a pass that ended with `no_gradient`."""
    unhealthy = UnhealthyPass(
        model=subject.model,
        parameters=ParameterIndex(subject.model),
        inputs=subject.batch.inputs,
        loss_of=loss_of,
        prepared=lambda: seeded(subject.seed, device),
        casting=lambda: casting(settings.precision, device),
    )
    return next((fault for fault in _without_raising(unhealthy, settings.mode) if fault.kind == "cut"), None)


def _without_raising(unhealthy: UnhealthyPass, mode: str) -> tuple[Fault, ...]:
    """Locate; a model that cannot run under a watch loses nothing but the operation's name."""
    try:
        with left_as_found(unhealthy.model, mode), ordinary_graphs():
            return locate(unhealthy)
    except Exception as error:  # noqa: BLE001  # the model may raise anything under a watch
        if out_of_memory(error) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return ()


def _has_non_finite_output(reading: PassReading) -> bool:
    outputs = (call.output.rms for call in reading.calls)
    after = (call.activation.output.rms for call in reading.calls if call.activation is not None)
    return any(rms is not None and not math.isfinite(rms) for rms in (*outputs, *after))


def _zero_states(s: SectionInput) -> Iterator[Fault]:
    """Find the recurrent weights that meet nothing but the zeros before the first step.

    The gradient of weight_hh is δ times the state, that of weight_ih is δ times the input: where the second is not zero
    and the first is, the state was.
    """
    nonzero = {entry.name: reading.moments.nonzero for entry, reading in s.reading.gradients.items()}
    for name, count in nonzero.items():
        owner, weight = owner_of(name), name.rpartition(".")[2]
        of_input = name.removesuffix(weight) + weight.replace("weight_hh", "weight_ih")
        if count == 0 and of_input != name and nonzero.get(of_input):
            operation = Operation(name="matmul", module=owner[:256] or None, reason="zero_state")
            yield Fault(kind="zero", stage="backward", operation=operation, parameters=(name,))


def _only_padding(reading: PassReading) -> Iterator[Fault]:
    """Find the kernels of which a part sees nothing but padding, and no other part has a zero gradient."""
    for call in reading.calls:
        if call.operation not in _CONVOLUTIONS or call.input_shape is None:
            continue
        for entry in call.entries:
            gradient = reading.gradients.get(entry)
            share = _share_of_padding(call, entry)
            if gradient is None or share is None or not share:
                continue
            zeros = 1.0 - gradient.moments.nonzero / max(gradient.moments.numel, 1)
            if zeros < share + MOSTLY * (1.0 - share):
                seen = OperationInput(dtype=str(entry.tensor.dtype).removeprefix("torch."), shape=call.input_shape[:16])
                operation = Operation(
                    name="convolution", module=owner_of(entry.name)[:256] or None, inputs=(seen,), reason="only_padding"
                )
                yield Fault(kind="zero", stage="backward", operation=operation, parameters=(entry.name,))


def _share_of_padding(call: LayerCall, entry: ParameterEntry) -> float | None:
    """Return the share of a kernel's positions that meet padding alone, at every place of the kernel."""
    kernel = tuple(entry.tensor.shape[2:])
    lists = [value for value in call.arguments if isinstance(value, list | tuple)]
    sizes = call.input_shape[2:] if call.input_shape is not None else ()
    is_transposed = any(value is True for value in call.arguments[6:7])  # later flags of traced calls are cuDNN's
    if not kernel or len(lists) < 3 or len(sizes) != len(kernel) or is_transposed:
        return None
    live = 1.0
    for axis, (taps, size) in enumerate(zip(kernel, sizes, strict=True)):
        stride, padding, dilation = (int(each[axis] if axis < len(each) else each[0]) for each in lists[:3])
        places = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        meets = [
            any(0 <= place * stride - padding + tap * dilation < size for place in range(places)) for tap in range(taps)
        ]
        live *= sum(meets) / taps
    return 1.0 - live
