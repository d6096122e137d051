"""A network with one batch and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

CLASSES = 10


# Any: inputs, targets and losses differ by architecture; transformers' configurations take keywords
Loss = Literal["cross_entropy", "mse", "bce_with_logits"] | Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model with one batch.

    Attributes:
        model: with random weights.
        inputs: of the model.
        target: of the loss.
        loss: a name, or a function of the output and the target.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    target: Any
    loss: Loss = "cross_entropy"


Builder = Callable[[], Architecture]


def classes(batch: int, count: int = CLASSES) -> torch.Tensor:
    return torch.randint(0, count, (batch,))


def named(build: Callable[..., Architecture], names: Sequence[str], **options: Any) -> dict[str, Builder]:
    return {name: partial(build, name, **options) for name in names}
