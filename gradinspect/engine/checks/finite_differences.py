"""Comparison of gradients with a float64 copy: its central differences, and the norms of its gradients.

Source: Nocedal and Wright 2006, "Numerical optimization", section 8.1: the error of a central difference is h²·f‴/6
plus rounding of ε·f/h; with h = 1e-5 and float64 both stay below 1e-9 for a loss and weights of order 1.
"""

from __future__ import annotations

import copy
import io
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gradinspect.contracts.report.report import SelfCheck
from gradinspect.engine.checks.allowance import Allowance
from gradinspect.engine.checks.intended import why_meant_to_differ
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import HALF
from gradinspect.engine.network.batch import map_tensors
from gradinspect.engine.network.load import load_torchscript
from gradinspect.engine.network.model_errors import read_error
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.network.reproducible import seeded

NAME, NORMS = "finite_differences", "gradients_in_float64"
STEP = 1e-5
TOLERANCE = 1e-4  # chosen: five orders above the method's error, and far below any mistake in a derivative
NORM_TOLERANCE = 10.0  # times √ε; chosen: layers amplify rounding, and a ReLU at its kink may be on either side
KINK_SHARE = 0.1  # chosen: of the error; a share that a smooth loss reaches only where f'' is 10⁴ times f'
SAMPLES = 8  # of the batch; a derivative is right or wrong for one sample as for many
MOST_REASON = 300  # characters
LARGEST_OUTPUTS = 100_000  # elements of all layers' outputs: norms need a float64 pass over the whole batch
LARGEST_PARAMETERS = 1_000_000  # elements; a float64 copy of these takes 8 MB and a few milliseconds
FORWARD_SHARE = 0.5  # chosen: of a forward and backward pass


def finite_differences(s: SectionInput, allowance: Allowance) -> list[SelfCheck]:
    """Compare derivatives with differences, and the report's gradient norms with those of the float64 copy.

    The parameters are the first, the middle and the last that is trained; in each the coordinate with the largest
    gradient is tried. One whose differences to both sides disagree is next to a kink and is skipped. A check that
    fails is left out where the model's gradient is meant to differ.

    Cost: at most the allowance: a float64 copy of the model; over eight samples of the batch one forward and backward
    pass, and two forward passes for each coordinate; one pass over the whole batch where that fits.
    """
    if s.settings.precision.compute in HALF:
        return _left_out("the request computes in half precision")
    size = sum(entry.tensor.numel() for entry in s.parameters)
    if size > LARGEST_PARAMETERS:
        return _left_out(f"a float64 copy of {size:,} parameters would take {size * 8 / 2**20:,.0f} MiB")
    trained = [entry.name for entry in s.parameters if _has_gradient(s, entry)]
    if not trained:
        return _left_out("no parameter has a finite, non-zero gradient")
    try:
        return _checked(s, trained, allowance)
    except Exception as error:  # noqa: BLE001  # a check may not take the report with it, whatever the copy raises
        return _left_out(f"the model does not run in float64: {read_error(error)}"[:MOST_REASON])


def _checked(s: SectionInput, trained: list[str], allowance: Allowance) -> list[SelfCheck]:
    model = _copied(s.model).double()
    by_name = {entry.name: entry for entry in ParameterIndex(model)}
    chosen = [by_name[trained[index]] for index in sorted({0, len(trained) // 2, len(trained) - 1})]
    started = time.thread_time()
    few, gradients, value = _few_samples(model, s, chosen)
    seconds = time.thread_time() - started
    checks = [_differences(gradients, value, few, lambda: allowance.allows_seconds(2 * FORWARD_SHARE * seconds))]
    is_small = sum(call.output_numel for call in s.reading.calls) <= LARGEST_OUTPUTS
    parts = max(_samples(s) / SAMPLES, 1.0)
    if is_small and allowance.allows_seconds(parts * seconds):
        checks += _norms(s, *_gradients(_loss_of(model, s, None), chosen))
    if any(check.status == "failed" for check in checks):
        reason = why_meant_to_differ(model, few)
        if reason is not None:
            return [SelfCheck(name=check.name, status="not_applicable", detail=reason) for check in checks]
    return checks


def _few_samples(
    model: nn.Module, s: SectionInput, chosen: list[ParameterEntry]
) -> tuple[Callable[[], torch.Tensor], dict[ParameterEntry, torch.Tensor], float]:
    """Return the loss of the first samples, its gradients and its value; of the whole batch where that cannot be cut.

    Inputs of a graph or a ragged batch refer to one another, and the first rows alone may be no input.
    """
    try:
        few = _loss_of(model, s, SAMPLES)
        return few, *_gradients(few, chosen)
    except Exception:  # noqa: BLE001  # the model may raise anything on a batch that it was not given
        whole = _loss_of(model, s, None)
        return whole, *_gradients(whole, chosen)


def _left_out(reason: str) -> list[SelfCheck]:
    return [SelfCheck(name=NAME, status="not_applicable", detail=reason)]


def _has_gradient(s: SectionInput, entry: ParameterEntry) -> bool:
    reading = s.reading.gradients.get(entry)
    return reading is not None and reading.moments.is_finite and reading.moments.nonzero > 0


def _copied(model: nn.Module) -> nn.Module:
    if not isinstance(model, torch.jit.ScriptModule):
        return copy.deepcopy(model)
    file = io.BytesIO()  # after deepcopy a scripted model's parameters are no leaves of the graph
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # deprecated upstream, still supported here
        torch.jit.save(model, file)
    return load_torchscript(file.getvalue())


def _loss_of(model: nn.Module, s: SectionInput, samples: int | None) -> Callable[[], torch.Tensor]:
    """Return the loss of the copy on the first samples, or on all; every call draws the same random numbers."""
    count = _samples(s)
    inputs = [_cut(tensor, count, samples) for tensor in s.batch.inputs]
    target = map_tensors(s.target, lambda tensor: _cut(tensor, count, samples))
    model.train(s.settings.mode == "train")
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def loss() -> torch.Tensor:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        with seeded(s.seed, s.device):
            return s.loss_between(s.part_of(model(*inputs)), target)

    return loss


def _samples(s: SectionInput) -> int:
    return s.batch.inputs[0].shape[0] if s.batch.inputs and s.batch.inputs[0].dim() else 0


def _cut(tensor: torch.Tensor, count: int, samples: int | None) -> torch.Tensor:
    has_samples = tensor.dim() > 0 and tensor.shape[0] == count
    first = tensor[:samples] if has_samples else tensor
    if first.is_complex():
        return first.to(torch.complex128)
    return first.double() if first.is_floating_point() else first


def _gradients(
    loss: Callable[[], torch.Tensor], chosen: list[ParameterEntry]
) -> tuple[dict[ParameterEntry, torch.Tensor], float]:
    """Compute the flat gradient of each chosen parameter that has one, and the loss."""
    members = [member for entry in chosen for member in entry.members]
    with torch.enable_grad():
        value = loss()
        parts_of = torch.autograd.grad(value, members, allow_unused=True)
    of_member = dict(zip(map(id, members), parts_of, strict=True))
    gradients: dict[ParameterEntry, torch.Tensor] = {}
    for entry in chosen:
        parts = [part for part in (of_member[id(member)] for member in entry.members) if part is not None]
        if parts:
            gradients[entry] = torch.stack([part.to_dense() for part in parts]).sum(0).reshape(-1)
    return gradients, float(value.detach())


def _differences(
    gradients: dict[ParameterEntry, torch.Tensor],
    value: float,
    loss: Callable[[], torch.Tensor],
    has_time: Callable[[], bool],
) -> SelfCheck:
    errors = []
    for entry, gradient in gradients.items():
        if not has_time():
            break
        index = int(gradient.abs().argmax())
        error = _relative_error(_Coordinate(entry, index, float(gradient[index])), value, loss)
        if error is not None:
            errors.append(error)
    if not errors and not has_time():
        return _left_out("it would take longer than one pass")[0]
    if not errors:
        return _left_out("every coordinate that was tried is next to a kink, or below the loss's rounding")[0]
    return SelfCheck(
        name=NAME,
        status="passed" if max(errors) <= TOLERANCE else "failed",
        value=max(errors),
        tolerance=TOLERANCE,
        detail=f"derivative minus central difference in {len(errors)} coordinates of a float64 copy, relative",
    )


def _norms(s: SectionInput, gradients: dict[ParameterEntry, torch.Tensor], value: float) -> list[SelfCheck]:
    """Compare the report's norms with the copy's; return nothing if the copy drew other random numbers."""
    own = {entry.name: entry for entry in s.parameters}
    rounding = max((torch.finfo(own[entry.name].tensor.dtype).eps for entry in gradients), default=0.0) ** 0.5
    if not gradients or not math.isclose(value, s.reading.loss, rel_tol=rounding):
        return []
    norms = {entry.name: float(gradient.norm()) for entry, gradient in gradients.items()}
    # Of a gradient that cancels, only rounding of the size of the others is left: 0 in one precision, not in another.
    floor = rounding * max(
        reading.moments.norm for reading in s.reading.gradients.values() if reading.moments.is_finite
    )
    if floor == 0.0:
        return []
    worst = max(
        abs(s.reading.gradients[own[name]].moments.norm - norm) / max(norm, floor) for name, norm in norms.items()
    )
    tolerance = NORM_TOLERANCE * rounding
    return [
        SelfCheck(
            name=NORMS,
            status="passed" if worst <= tolerance else "failed",
            value=worst,
            tolerance=tolerance,
            detail=f"norms of {len(gradients)} gradients minus those of a float64 copy, relative",
        )
    ]


@dataclass(frozen=True)
class _Coordinate:
    entry: ParameterEntry
    index: int
    derivative: float


def _relative_error(coordinate: _Coordinate, value: float, loss: Callable[[], torch.Tensor]) -> float | None:
    """Compare a derivative with differences; None next to a kink and below the loss's rounding.

    At a smooth point the slopes to both sides differ by h·f'' and agree much better with one another than with a wrong
    derivative. At a kink, and between kinks closer than h, they differ as much as the derivative differs from either.
    """
    derivative = coordinate.derivative
    rounding = torch.finfo(torch.float64).eps * abs(value) / STEP
    if abs(derivative) * TOLERANCE < 10 * rounding:
        return None
    error, asymmetry = _compare(coordinate, STEP, value, loss)
    if error > TOLERANCE:
        halved, _ = _compare(coordinate, STEP / 2, value, loss)
        if abs(halved - error) > KINK_SHARE * error or asymmetry > KINK_SHARE * error:
            return None
    return error


def _compare(
    coordinate: _Coordinate, step: float, value: float, loss: Callable[[], torch.Tensor]
) -> tuple[float, float]:
    """Return the relative error of the central difference, and half the difference of the slopes to both sides."""
    above, below = (_loss_at(coordinate, shift, loss) for shift in (step, -step))
    central = (above - below) / (2 * step)
    asymmetry = abs(above - 2 * value + below) / (2 * step)
    return abs(central / coordinate.derivative - 1), asymmetry / abs(coordinate.derivative)


def _loss_at(coordinate: _Coordinate, shift: float, loss: Callable[[], torch.Tensor]) -> float:
    with torch.no_grad():
        flat = coordinate.entry.tensor.view(-1)
        saved = float(flat[coordinate.index])
        flat[coordinate.index] = saved + shift
        value = float(loss())
        flat[coordinate.index] = saved
    return value
