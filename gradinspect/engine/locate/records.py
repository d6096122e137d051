"""What is recorded of one operation while the second pass runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from gradinspect.contracts.report.operations import OperationInput, SourceLine

Stage = Literal["forward", "loss"]
MOST_INPUTS = 4
_PUBLIC_NAMES = {
    "_softmax": "softmax", "_log_softmax": "log_softmax", "nll_loss_forward": "nll_loss",
    "nll_loss2d_forward": "nll_loss", "native_layer_norm": "layer_norm", "native_group_norm": "group_norm",
    "native_batch_norm": "batch_norm", "_native_batch_norm_legit": "batch_norm", "cudnn_batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm", "_batch_norm_with_update": "batch_norm",
    "_fused_rms_norm": "rms_norm", "_to_copy": "to", "_ctc_loss": "ctc_loss", "_local_scalar_dense": "item",
    "linalg_vector_norm": "norm", "_cdist_forward": "cdist", "_euclidean_dist": "cdist", "lift_fresh": "tensor",
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention": "scaled_dot_product_attention",
    "_scaled_dot_product_efficient_attention": "scaled_dot_product_attention",
    "_scaled_dot_product_cudnn_attention": "scaled_dot_product_attention", "_safe_softmax": "softmax",
}  # fmt: skip


@dataclass
class Record:
    """One operation.

    Attributes:
        index: in the order of the pass.
        name: ATen name without overload; in-place forms without the underscore.
        stage: whether the model or the loss called it.
        sequence: of its autograd node; None where it has none.
        arguments: its arguments that are no tensors, in order; tensors are None.
        inputs: statistics of its first floating-point tensors.
        positions: index of the argument that each of `inputs` is.
        axis_size: number of elements that a softmax or normalisation runs over.
        breaks: it made non-finite values of finite ones.
        makes_nan: some of them are NaN.
        upstream: a bit for each parameter behind its inputs.
        inherits: indices of the operations that made its inputs non-finite.
        module: path of the module that called it.
        source: line of the model's code that called it.
    """

    index: int
    name: str
    stage: Stage
    arguments: tuple[Any, ...] = ()  # Any: scalars, dtypes, lists of integers
    inputs: tuple[OperationInput, ...] = ()
    positions: tuple[int, ...] = ()
    sequence: int | None = None
    axis_size: int | None = None
    breaks: bool = False
    makes_nan: bool = False
    upstream: int = 0
    inherits: frozenset[int] = frozenset()
    output_dtype: torch.dtype | None = None
    module: str | None = None
    source: SourceLine | None = None
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def public_name(self) -> str:
        """The name that callers know the operation by."""
        return _PUBLIC_NAMES.get(self.name, self.name).strip("_") or self.name


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in arguments or results, through lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


def describe(tensor: torch.Tensor) -> OperationInput:
    """Read the smallest and largest finite value and the share of zeros of a tensor."""
    values = tensor.detach()
    shape = tuple(int(size) for size in values.shape)[:16]
    dtype = str(values.dtype).removeprefix("torch.")
    if values.is_complex() or not values.numel() or values.layout is not torch.strided:
        return OperationInput(dtype=dtype, shape=shape)
    if values.is_floating_point():
        are_finite = torch.isfinite(values)
        bad = int(values.numel() - are_finite.sum())
        finite = values[are_finite] if bad else values
    else:
        bad, finite = 0, values
    if not finite.numel():
        return OperationInput(dtype=dtype, shape=shape, nonfinite_count=bad)
    low, high = (float(finite.min()), float(finite.max()))
    zeros = 1.0 - int(torch.count_nonzero(finite)) / values.numel() if not bad else None
    return OperationInput(
        dtype=dtype, shape=shape, smallest=low, largest=high, zero_fraction=zeros, nonfinite_count=bad
    )


def axis_size(name: str, args: Sequence[Any]) -> int | None:
    """Return how many elements a softmax or a normalisation runs over, from the arguments of its ATen operation."""
    first = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if first is None:
        return None
    if name in ("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax"):
        return int(first.shape[args[1]]) if first.dim() and len(args) > 1 and isinstance(args[1], int) else 1
    if name == "native_layer_norm":
        return _product(args[1])
    if name == "native_group_norm":
        channels, spatial, groups = args[4], args[5], args[6]
        return int(channels) * int(spatial) // max(int(groups), 1)
    if "batch_norm" in name and first.dim() > 1:
        return int(first.numel() // max(first.shape[1], 1))
    return None


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result
