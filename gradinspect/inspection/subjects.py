"""The models and batches of one inspection, one per seed, made one after another so that only one model is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.first_order.first_pass import Subject
from gradinspect.engine.network.autocast import weight_dtype
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.build import build, load_weights

SEEDS = 2**63


def spec_dtype(settings: InspectionSettings) -> torch.dtype:
    """Return the dtype in which a spec's parameters are made."""
    return weight_dtype(settings.precision.compute) or torch.float32


def spec_subjects(
    spec: ModelSpec,
    settings: InspectionSettings,
    *,
    device: torch.device,
    batch: Callable[[], Batch],
    weights: bytes | None = None,
) -> Iterator[Subject]:
    """Build the spec once per seed. The data stays the same: only the initialisation differs between seeds.

    Args:
        spec: the network.
        settings: of the request; `seeds` says how many.
        device: where the models are built.
        batch: makes the batch, once per seed.
        weights: safetensors that replace the initialisation; a model with weights is never drawn anew.
    """
    for index in range(settings.seeds):
        yield _spec_subject(spec, settings, (settings.seed + index) % SEEDS, device, batch, weights)


def module_subjects(
    model: nn.Module, settings: InspectionSettings, batch: Callable[[int, int], Batch]
) -> Iterator[Subject]:
    """Give one model a batch per seed: with a module that we did not draw, the batches are what differs.

    Args:
        model: used as it is for every seed.
        settings: of the request; `seeds` says how many.
        batch: (index, seed) → the batch.
    """
    for index in range(settings.seeds):
        seed = (settings.seed + index) % SEEDS
        yield Subject(model, batch(index, seed), seed)


def _spec_subject(
    spec: ModelSpec,
    settings: InspectionSettings,
    seed: int,
    device: torch.device,
    batch: Callable[[], Batch],
    weights: bytes | None,
) -> Subject:
    """Build one model. A separate function, so that no variable holds the model while the next one is built."""
    dtype = spec_dtype(settings)

    def rebuild(other: int) -> nn.Module:
        return build(spec, seed=other, dtype=dtype, device=device)

    model = rebuild(seed)
    if weights is not None:
        load_weights(model, weights)
    return Subject(model, batch(), seed, rebuild if weights is None else None)
