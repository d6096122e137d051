"""The two ends of a loss's scale: the loss of the best constant output, and the smallest loss that exists.

A constant output is one vector over the feature axis, the same for every sample and position: what a model can give
without looking at its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.request import Loss
from gradinspect.engine.network.batch import Target
from gradinspect.engine.network.losses import CLASSIFIERS
from gradinspect.engine.network.outputs import ModelOutput
from gradinspect.probes.trial.minimise import minimise


def chance_of_named(loss: Loss, output_shape: tuple[int, ...], target: torch.Tensor) -> float | None:
    """Compute the named loss of the best constant output, in closed form where there is one.

    cross_entropy and nll: the entropy of the labels. bce_with_logits: the mean entropy of each feature. mse: the mean
    variance of each feature. l1: the mean distance from each feature's median. huber: by L-BFGS.

    Args:
        loss: which.
        output_shape: of the model, samples first.
        target: (samples, …), as the loss takes it.

    Returns:
        The loss in the reduction of the named losses, the mean; None for losses without a target or a minimum.

    Two labels in equal parts leave ln 2:

    >>> round(chance_of_named("cross_entropy", (4, 10), torch.tensor([1, 1, 7, 7])), 4)
    0.6931
    """
    if loss in CLASSIFIERS:
        shares = torch.bincount(target.flatten().cpu()).double() / target.numel()
        return -float(torch.xlogy(shares, shares).sum())
    rows = _by_feature(target.detach().double().cpu(), output_shape)  # (samples and positions, features)
    means = rows.mean(dim=0)
    match loss:
        case "mse":
            return float((rows - means).square().mean())
        case "l1":
            return float((rows - rows.median(dim=0).values).abs().mean())
        case "bce_with_logits":
            return _finite(float(_binary_entropy(means).mean()))
        case "huber":
            return minimise(lambda vector: functional.huber_loss(vector.expand_as(rows), rows), means)
    return None


def floor_of_named(loss: Loss, target: torch.Tensor) -> float | None:
    """Return the smallest value of a named loss for a target: 0, and for probabilities their entropy."""
    if loss == "bce_with_logits":
        return _finite(float(_binary_entropy(target.detach().double()).mean()))
    return 0.0 if loss in CLASSIFIERS or loss in ("mse", "l1", "huber") else None


def chance_of_callable(
    loss: Callable[[ModelOutput, Target], torch.Tensor], output: ModelOutput, target: Target
) -> float | None:
    """Minimise a function of (output, target) over constant outputs, by L-BFGS from the mean output.

    Args:
        loss: returns a scalar.
        output: what the model returned; its floating-point tensors are replaced.
        target: the loss's second argument.

    Returns:
        The loss; None where the function takes no constant, has no slope there or has no finite minimum.
    """
    leaves, structure = tree_flatten(output)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    if not places:
        return None
    means = [_by_feature(leaves[i].detach().double(), tuple(leaves[i].shape)).mean(dim=0) for i in places]
    sizes = [mean.numel() for mean in means]

    def of_constants(vector: torch.Tensor) -> torch.Tensor:
        filled = list(leaves)
        for i, part in zip(places, vector.split(sizes), strict=True):
            filled[i] = _spread(part.to(leaves[i].dtype), leaves[i])
        return loss(tree_unflatten(filled, structure), target).double()

    try:
        best = minimise(of_constants, torch.cat(means))
    except (InspectionError, RuntimeError, ValueError, TypeError, ArithmeticError):  # the caller's function
        return None
    return best if math.isfinite(best) else None


def _finite(entropy: float) -> float | None:
    """Return None for the entropy of targets outside 0 … 1, whose loss has no minimum."""
    return entropy if math.isfinite(entropy) else None


def _feature_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the features: the last of (samples, features) and of sequences, the channels of images."""
    if len(shape) < 2:
        return None
    return len(shape) - 1 if len(shape) <= 3 else 1


def _by_feature(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Arrange values as (samples and positions, features); without a feature axis there is one feature."""
    axis = _feature_axis(shape)
    if axis is None or values.dim() <= axis:
        return values.reshape(-1, 1)
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])


def _spread(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    axis = _feature_axis(tuple(like.shape))
    if axis is None:
        return vector.reshape(()).expand(like.shape)
    return vector.reshape([-1 if i == axis else 1 for i in range(like.dim())]).expand(like.shape)


def _binary_entropy(p: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)
