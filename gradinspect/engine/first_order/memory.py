"""The batch size that would fit where an allocation failed."""

from __future__ import annotations

from dataclasses import replace

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.first_order.first_pass import Subject
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.outputs import first_tensor
from gradinspect.engine.network.reproducible import left_as_found, seeded


def memory_limit(subject: Subject, mode: str) -> InspectionError:
    """Halve the batch until a bare pass fits, and return the error that says so.

    Args:
        subject: the pass that did not fit.
        mode: train or eval.

    Cost: at most log2(batch) bare passes, each over half of what the last one took.
    """
    samples = subject.batch.inputs[0].shape[0] if subject.batch.inputs[0].dim() else 1
    smaller = samples // 2
    while smaller:
        fits = _fits(replace(subject, batch=_first_samples(subject.batch, smaller)), mode)
        if fits is None:
            return InspectionError(
                "memory_limit", f"a batch of {samples} samples does not fit into the memory that is left"
            )
        if fits:
            return InspectionError(
                "memory_limit",
                f"a batch of {samples} samples does not fit into the memory that is left; one of {smaller} does",
            )
        smaller //= 2
    return InspectionError(
        "memory_limit", f"one sample does not fit into the memory that is left (the batch has {samples})"
    )


def _first_samples(batch: Batch, count: int) -> Batch:
    return replace(batch, inputs=tuple(tensor[:count] for tensor in batch.inputs))


def _fits(subject: Subject, mode: str) -> bool | None:
    """Try a bare pass; return None where the model does not take a smaller batch."""
    device = subject.batch.inputs[0].device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    parameters = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    try:
        with left_as_found(subject.model, mode), seeded(subject.seed, device):
            output = first_tensor(subject.model(*subject.batch.inputs))
            torch.autograd.grad(output.square().mean(), parameters, allow_unused=True)  # any scalar takes as much
    except Exception as error:  # noqa: BLE001  # the model may raise anything on a batch that it was not given
        return False if out_of_memory(error) else None
    return True
