"""The losses a request can name, mean-reduced, and the targets drawn for them when a request has none."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.data import BinaryTarget, ClassesTarget, NormalTarget, TargetSource
from gradinspect.contracts.request.request import Loss

CLASSIFIERS = frozenset({"cross_entropy", "nll"})
TARGETLESS = frozenset({"output_mean", "random_cotangent"})


def compute_loss(
    name: Loss, output: torch.Tensor, target: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Reduce an output to a scalar.

    Args:
        name: which loss.
        output: (batch, …), for classification with classes on the last axis when `target` has the shape of the other
            axes, else on axis 1 as torch has it.
        target: class indices, or values in the output's shape; ignored by `output_mean` and `random_cotangent`.
        generator: draws the cotangent of `random_cotangent`: mean over samples of ⟨v, output⟩ with v ~ N(0, I).

    Raises:
        InspectionError: `data_mismatch` when output and target do not fit.

    Equal logits of K classes have the loss ln K:

    >>> loss = compute_loss("cross_entropy", torch.zeros(1, 4), torch.tensor([2]), torch.Generator())
    >>> math.isclose(loss, math.log(4), rel_tol=1e-6)
    True
    """
    if output.is_complex() and name != "l1":
        raise InspectionError(
            "data_mismatch",
            f"the loss {name} takes real numbers, and the output is {str(output.dtype).removeprefix('torch.')}; "
            "return its real part or its absolute value",
        )
    if name == "output_mean":
        return output.mean()
    if name == "random_cotangent":
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        return (output * cotangent).sum() / output.shape[0]
    if target is None:
        single = "; the model gives a single number, for which there is output_mean" if not output.dim() else ""
        raise InspectionError("data_mismatch", f"the loss {name} needs a target{single}")
    _check_fit(name, output, target)
    if name in CLASSIFIERS:
        logits = _classes_on_axis_1(output, target)
        return (
            functional.cross_entropy(logits, target) if name == "cross_entropy" else functional.nll_loss(logits, target)
        )
    target = target.to(output.dtype)
    if name == "mse":
        return functional.mse_loss(output, target)
    if name == "l1":
        return functional.l1_loss(output, target)
    if name == "huber":
        return functional.huber_loss(output, target)
    return functional.binary_cross_entropy_with_logits(output, target)


def draw_target(
    name: Loss, output: torch.Tensor, source: TargetSource | None, generator: torch.Generator
) -> torch.Tensor | None:
    """Draw a target that fits an output; what `source` does not say follows from the output and the loss.

    Returns:
        None for losses without a target.
    """
    if name in TARGETLESS or (name in CLASSIFIERS and not output.dim()):
        return None
    shape = tuple(source.shape) if source is not None and source.shape is not None else None
    if name in CLASSIFIERS:
        if source is not None and not isinstance(source, ClassesTarget):
            raise InspectionError("data_mismatch", f"the loss {name} takes a target of kind classes, not {source.kind}")
        positions, classes = _positions_and_classes(output)
        if source is not None:
            classes = source.num_classes
            positions = shape if shape is not None else positions
        return torch.randint(0, classes, positions, generator=generator).to(output.device)
    if isinstance(source, ClassesTarget):
        raise InspectionError("data_mismatch", f"the loss {name} takes a target of kind normal or binary, not classes")
    shape = shape if shape is not None else tuple(output.shape)
    if isinstance(source, BinaryTarget) or (source is None and name == "bce_with_logits"):
        return torch.randint(0, 2, shape, generator=generator).to(output)
    assert source is None or isinstance(source, NormalTarget)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(output)


def expected_initial_loss(name: Loss, output_shape: tuple[int, ...], target: torch.Tensor | None) -> float | None:
    """Return the loss of a constant prediction: ln K for K classes, ln 2 for bce; None where it depends on the data."""
    if name == "bce_with_logits":
        return math.log(2)
    if name in CLASSIFIERS and target is not None:
        are_classes_last = tuple(target.shape) == tuple(output_shape[:-1])
        return math.log(output_shape[-1] if are_classes_last else output_shape[1])
    return None


def _positions_and_classes(output: torch.Tensor) -> tuple[tuple[int, ...], int]:
    """Assume classes on the last axis of (batch, classes) and sequences, on axis 1 of images and beyond."""
    if output.dim() <= 3:
        return tuple(output.shape[:-1]), output.shape[-1]
    return (output.shape[0], *output.shape[2:]), output.shape[1]


def _classes_on_axis_1(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.movedim(-1, 1) if output.dim() > 2 and target.shape == output.shape[:-1] else output


def _check_fit(name: Loss, output: torch.Tensor, target: torch.Tensor) -> None:
    shape, target_shape = list(output.shape), list(target.shape)
    if not target.numel():
        raise InspectionError(
            "data_mismatch", f"the target {target_shape} holds no element, so the loss {name} has no value"
        )
    if name in CLASSIFIERS:
        if target.is_floating_point():
            raise InspectionError(
                "data_mismatch", f"the loss {name} takes integer classes; the target is {target.dtype}"
            )
        logits = _classes_on_axis_1(output, target)
        if output.dim() < 2 or [logits.shape[0], *logits.shape[2:]] != target_shape:
            raise InspectionError(
                "data_mismatch", f"the loss {name} cannot compare an output {shape} with classes {target_shape}"
            )
        lowest, highest = int(target.min()), int(target.max())
        if lowest < 0 or highest >= logits.shape[1]:
            raise InspectionError(
                "data_mismatch",
                f"the target holds classes {lowest} to {highest}, but the output {shape} has {logits.shape[1]} classes",
            )
    elif shape != target_shape:
        raise InspectionError(
            "data_mismatch", f"the loss {name} compares equal shapes; output {shape}, target {target_shape}"
        )
