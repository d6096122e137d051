"""Comparison of gradients with a float64 copy: its central differences, and the norms of its gradients.

Source: Nocedal and Wright 2006, "Numerical optimization", section 8.1: the error of a central difference is h²·f‴/6
plus rounding of ε·f/h; with h = 1e-5 and float64 both stay below 1e-9 for a loss and weights of order 1.
"""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import SelfCheck
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import HALF
from gradinspect.engine.network.batch import map_tensors
from gradinspect.engine.network.load import load_torchscript
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.network.reproducible import seeded

NAME, NORMS = "finite_differences", "gradients_in_float64"
STEP = 1e-5
TOLERANCE = 1e-4  # chosen: five orders above the method's error, and far below any mistake in a derivative
NORM_TOLERANCE = 10.0  # times √ε; chosen: layers amplify rounding, and a ReLU at its kink may be on either side
SAMPLES = 8  # of the batch; a derivative is right or wrong for one sample as for many
LONGEST_PASS_SECONDS = 1.0
LARGEST_OUTPUTS = 100_000  # elements of all layers' outputs: norms need a float64 pass over the whole batch
LARGEST_PARAMETERS = 4_000_000  # elements; a float64 copy of these takes 32 MB


def finite_differences(s: SectionInput) -> list[SelfCheck]:
    """Compare derivatives with differences, and the report's gradient norms with those of the float64 copy.

    The parameters are the first, the middle and the last that is trained; in each the coordinate with the largest
    gradient is tried. One whose differences over h and h/2 disagree is next to a kink and is skipped.

    Cost: a float64 copy of the model; over eight samples of the batch one forward and backward pass, and two forward
    passes for each coordinate; for small models one pass over the whole batch.
    """
    if s.settings.precision.compute in HALF:
        return _left_out("the request computes in half precision")
    size = sum(entry.tensor.numel() for entry in s.parameters)
    if size > LARGEST_PARAMETERS:
        return _left_out(f"a float64 copy of {size:,} parameters would take {size * 8 / 2**20:,.0f} MiB")
    if s.pass_seconds > LONGEST_PASS_SECONDS or not s.budget.allows(2 * s.pass_seconds):
        return _left_out(f"it may take two passes of {s.pass_seconds:.2g} s")
    trained = [entry.name for entry in s.parameters if _has_gradient(s, entry)]
    if not trained:
        return _left_out("no parameter has a finite, non-zero gradient")
    try:
        model = _copied(s.model).double()
        by_name = {entry.name: entry for entry in ParameterIndex(model)}
        chosen = [by_name[trained[index]] for index in sorted({0, len(trained) // 2, len(trained) - 1})]
        few = _loss_of(model, s, SAMPLES)
        checks = [_differences(*_gradients(few, chosen), few)]
        if sum(call.output_numel for call in s.reading.calls) <= LARGEST_OUTPUTS:
            checks += _norms(s, *_gradients(_loss_of(model, s, None), chosen))
        return checks
    except (RuntimeError, TypeError, ValueError, NotImplementedError, InspectionError) as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        return _left_out(f"the model does not run in float64: {reason.strip()[:200]}")


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
    count = s.batch.inputs[0].shape[0] if s.batch.inputs and s.batch.inputs[0].dim() else 0
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


def _cut(tensor: torch.Tensor, count: int, samples: int | None) -> torch.Tensor:
    has_samples = tensor.dim() > 0 and tensor.shape[0] == count
    first = tensor[:samples] if has_samples else tensor
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
    gradients: dict[ParameterEntry, torch.Tensor], value: float, loss: Callable[[], torch.Tensor]
) -> SelfCheck:
    errors = []
    for entry, gradient in gradients.items():
        index = int(gradient.abs().argmax())
        error = _relative_error(_Coordinate(entry, index, float(gradient[index])), value, loss)
        if error is not None:
            errors.append(error)
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
    floor = rounding * max(norms.values())
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
    """Compare a derivative with differences; None next to a kink and below the loss's rounding."""
    derivative = coordinate.derivative
    rounding = torch.finfo(torch.float64).eps * abs(value) / STEP
    if abs(derivative) * TOLERANCE < 10 * rounding:
        return None
    error = abs(_difference(coordinate, STEP, loss) / derivative - 1)
    if error > TOLERANCE:
        halved = abs(_difference(coordinate, STEP / 2, loss) / derivative - 1)
        if abs(halved - error) > 0.1 * error:
            return None
    return error


def _difference(coordinate: _Coordinate, step: float, loss: Callable[[], torch.Tensor]) -> float:
    return (_loss_at(coordinate, step, loss) - _loss_at(coordinate, -step, loss)) / (2 * step)


def _loss_at(coordinate: _Coordinate, shift: float, loss: Callable[[], torch.Tensor]) -> float:
    with torch.no_grad():
        flat = coordinate.entry.tensor.view(-1)
        saved = float(flat[coordinate.index])
        flat[coordinate.index] = saved + shift
        value = float(loss())
        flat[coordinate.index] = saved
    return value
