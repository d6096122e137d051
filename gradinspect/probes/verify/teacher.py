"""Learnable targets for inputs that came without: a fixed random network labels them.

Targets drawn independently of the inputs can only be memorised, and how fast a network memorises says little about
how it learns.
"""

from __future__ import annotations

import torch

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.batch import Target
from gradinspect.engine.network.reproducible import generator

FEATURES = 16  # chosen: few enough for 128 samples to say something about each
TOKEN_VALUES = 8  # random numbers that represent a token


def teacher_target(s: SectionInput) -> Target:
    """Compute targets of the drawn target's shape, dtype and range, as a function of the inputs.

    Where the target's leading axes are the inputs' own (a class for each token), each position is labelled from its own
    input, else from all of the sample's.
    """
    drawn: Target = s.target
    if not isinstance(drawn, torch.Tensor) or not drawn.dim():
        return drawn
    draws = generator(s.seed, "teacher")
    features = _features(s.batch.inputs, drawn, draws)  # (positions, FEATURES)
    outputs = drawn.numel() // features.shape[0]
    if drawn.is_floating_point():
        values = features @ torch.randn(FEATURES, outputs, generator=draws, dtype=torch.float64)
        values = _standardised(values)
        is_binary = bool(((drawn == 0) | (drawn == 1)).all())
        return (values > 0).to(drawn) if is_binary else values.to(drawn).reshape(drawn.shape)
    classes = int(drawn.max()) + 1
    scores = features @ torch.randn(FEATURES, outputs * classes, generator=draws, dtype=torch.float64)
    labels = _standardised(scores).reshape(-1, classes).argmax(dim=1)
    return labels.reshape(drawn.shape).to(drawn)


def _features(inputs: tuple[torch.Tensor, ...], target: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    shared = 1
    first = inputs[0]
    while shared < min(first.dim(), target.dim()) and first.shape[shared] == target.shape[shared]:
        shared += 1
    columns = []
    for tensor in inputs:
        values = tensor.detach().cpu()
        axes = shared if tensor.shape[:shared] == target.shape[:shared] else 1
        if not values.is_floating_point():
            values = values.long() - int(values.min())
            table = torch.randn(int(values.max()) + 1, TOKEN_VALUES, generator=draws, dtype=torch.float64)
            values = table[values]
        flat = values.double().reshape(*values.shape[:axes], -1)
        if axes < shared:
            flat = flat.reshape(flat.shape[0], *(1,) * (shared - 1), -1).expand(*target.shape[:shared], -1)
        columns.append(flat.reshape(-1, flat.shape[-1]))
    x = _standardised(torch.cat(columns, dim=1))
    mix = torch.randn(x.shape[1], FEATURES, generator=draws, dtype=torch.float64) / x.shape[1] ** 0.5
    return torch.tanh(2 * x @ mix)


def _standardised(values: torch.Tensor) -> torch.Tensor:
    """Scale each column to mean 0 and variance 1; a constant column becomes 0."""
    centred = values - values.mean(dim=0)
    return centred / centred.square().mean(dim=0).sqrt().clamp_min(1e-12)
