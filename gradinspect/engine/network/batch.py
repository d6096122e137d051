"""The batch that a model is inspected on: drawn from the seed, or read from a safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.data import (
    ArtifactData,
    ConstantTensor,
    Data,
    IntegersTensor,
    NormalTensor,
    TensorSource,
    UniformTensor,
)
from gradinspect.contracts.request.request import Loss
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.engine.network.losses import draw_target
from gradinspect.engine.network.outputs import ModelOutput, first_tensor
from gradinspect.engine.network.reproducible import generator

DEFAULT_SAMPLES = 128

Target = Any  # a tensor, None, or for a custom loss any structure of tensors
TargetMaker = Callable[[ModelOutput], Target]
InputDraws = Callable[[int | None, torch.Generator], tuple[torch.Tensor, ...]]  # of a number of samples


@dataclass(frozen=True)
class Batch:
    """Inputs, and a function that returns the target once the output is known.

    Attributes:
        inputs: the model's arguments, (samples, …) each.
        target_for: maps what the model returned to the target; None for losses without one.
        synthetic: True if anything was drawn instead of read.
        digest: SHA-256 over dtypes, shapes and values of the inputs and of a target that was read.
    """

    inputs: tuple[torch.Tensor, ...]
    target_for: TargetMaker
    synthetic: bool
    digest: str

    def with_target(self, target: Target) -> Batch:
        """Return the same inputs with a known target."""
        return Batch(self.inputs, lambda _output: target, self.synthetic, digest((*self.inputs, *tensors_in(target))))


def make_batch(
    data: Data | None,
    tensors: dict[str, torch.Tensor] | None,
    *,
    sample_input: SampleInput | None,
    vocabulary: int | None,
    loss: Loss,
    dtype: torch.dtype | None,
    device: torch.device,
    seed: int,
    part: tuple[int, int] = (0, 1),
    draw: InputDraws | None = None,
) -> Batch:
    """Make the batch of one pass.

    Args:
        data: the request's data; None means synthetic with all defaults.
        tensors: the tensors of the data artifact, if `data` names one.
        sample_input: shape and dtype of one input without its batch axis, if the model declares it.
        vocabulary: upper bound of the integers drawn for a declared integer input.
        loss: determines the target if the data has none.
        dtype: dtype of floating-point inputs; None leaves them unchanged.
        device: device of the tensors.
        seed: source of everything random.
        part: (index, count): read the index-th of count equal parts of an artifact's samples.
        draw: draws the inputs of a model that declares all of them, for data without inputs.

    Raises:
        InspectionError: `data_mismatch` with the tensor's name and what is wrong with it.
    """
    target_draws = generator(seed, "target")
    if isinstance(data, ArtifactData):
        moved = [_moved(tensor, dtype, device) for tensor in _read(data, tensors or {}, part=part)]
        inputs = tuple(moved[: len(data.inputs)])
        if data.target is None:
            return Batch(
                inputs, lambda output: draw_target(loss, first_tensor(output), None, target_draws), True, digest(inputs)
            )
        target = moved[-1] if moved[-1].is_floating_point() else moved[-1].long()
        return Batch(inputs, lambda _output: target, False, digest((*inputs, target)))
    draws = generator(seed, "inputs")
    samples = data.samples if data is not None else None
    if data is not None and data.inputs is not None:
        drawn = tuple(_draw(source, draws) for source in data.inputs)
    elif draw is not None:
        drawn = draw(samples, draws)
    else:
        drawn = (_draw(_default_source(sample_input, vocabulary, samples or DEFAULT_SAMPLES), draws),)
    inputs = tuple(_moved(tensor, dtype, device) for tensor in drawn)
    declared = data.target if data is not None else None
    return Batch(
        inputs, lambda output: draw_target(loss, first_tensor(output), declared, target_draws), True, digest(inputs)
    )


def map_tensors(value: Target, change: Callable[[torch.Tensor], torch.Tensor]) -> Target:
    """Apply a function to every tensor in nested dicts, lists and tuples; anything else stays as it is."""
    return tree_map_only(torch.Tensor, change, value)


def tensors_in(value: Target) -> list[torch.Tensor]:
    """Return the tensors in nested dicts, lists and tuples, in order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def counts_samples(target: Target, samples: int) -> bool:
    """Check that every tensor of a target has the batch's samples on its first axis."""
    return all(tensor.dim() > 0 and tensor.shape[0] == samples for tensor in tensors_in(target))


def digest(tensors: Sequence[torch.Tensor]) -> str:
    """Return the SHA-256 over dtypes, shapes and values, as `sha256:…`."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        hashed.update(f"{values.dtype}{list(values.shape)}".encode())
        hashed.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{hashed.hexdigest()}"


def _default_source(sample_input: SampleInput | None, vocabulary: int | None, samples: int) -> TensorSource:
    if sample_input is None:
        raise InspectionError(
            "data_mismatch", "the model declares no input; give data.inputs or register the model with input"
        )
    shape = (samples, *sample_input.shape)
    if sample_input.dtype == "int64" or sample_input.dtype == "int32":
        return IntegersTensor(kind="integers", shape=shape, dtype=sample_input.dtype, low=0, high=vocabulary or 2)
    return NormalTensor(kind="normal", shape=shape, dtype=sample_input.dtype)


def _draw(source: TensorSource, draws: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, source.dtype)
    if isinstance(source, NormalTensor):
        values = torch.randn(source.shape, generator=draws, dtype=torch.float64)
        return values.mul_(source.std).add_(source.mean).to(dtype)
    if isinstance(source, UniformTensor):
        values = torch.rand(source.shape, generator=draws, dtype=torch.float64)
        return values.mul_(source.high - source.low).add_(source.low).to(dtype)
    if isinstance(source, IntegersTensor):
        return torch.randint(source.low, source.high, source.shape, generator=draws).to(dtype)
    assert isinstance(source, ConstantTensor)
    return torch.full(source.shape, source.value, dtype=dtype)


def _moved(tensor: torch.Tensor, dtype: torch.dtype | None, device: torch.device) -> torch.Tensor:
    return tensor.to(device, dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype)


def _read(data: ArtifactData, tensors: dict[str, torch.Tensor], *, part: tuple[int, int]) -> list[torch.Tensor]:
    """Return one part of the samples of the inputs and, if the data names one, of the target after them."""
    names = [*data.inputs, *([data.target] if data.target is not None else [])]
    chosen = [_named(tensors, name) for name in names]
    counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in zip(names, chosen, strict=True)}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InspectionError("data_mismatch", f"the tensors must share their first axis (samples); they have {counts}")
    index, parts = part
    total = next(iter(counts.values()))
    if parts > total:
        raise InspectionError("data_mismatch", f"{parts} batches were asked for, but the data holds {total} samples")
    rows = slice(index * total // parts, (index + 1) * total // parts)
    return [tensor[rows] for tensor in chosen]


def _named(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        available = ", ".join(sorted(tensors)[:10]) or "none"
        raise InspectionError("data_mismatch", f"the data has no tensor {name!r}; it has {available}")
    return tensors[name]
