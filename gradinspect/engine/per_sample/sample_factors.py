"""A parameter's per-sample gradients, as the factors that the operation's node holds: its saved input and its signal.

For y = Wx over positions p, the gradient of sample n is Σ_p δ_np x_npᵀ: two factors, no tensor of W's size. Biases,
gains and normalisation parameters have per-sample gradients that are small themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import Node
from torch.nn import functional

from gradinspect.engine.per_sample.parameter_uses import Use
from gradinspect.engine.per_sample.sample_layout import Layout


@dataclass(frozen=True)
class Products:
    """Gradients Σ_p left_np ⊗ right_np.

    Attributes:
        left: from a range of samples to (samples, groups, positions, outputs).
        right: likewise (samples, groups, positions, inputs).
        sizes: samples, groups, positions, outputs, inputs.
    """

    left: Callable[[slice], torch.Tensor]
    right: Callable[[slice], torch.Tensor]
    sizes: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Lookups:
    """Gradients of a table: row `indices[n, p]` gets `values[n, p]`.

    Attributes:
        indices: (samples, positions), −1 where a position adds nothing (padding).
        values: (samples, positions, width).
    """

    indices: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Vectors:
    """Gradients themselves: (samples, elements)."""

    values: torch.Tensor


Factor = Products | Lookups | Vectors


def factor_of(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """The per-sample gradients that one use adds to its parameter; None where this operation has no formula here.

    Args:
        signal: δ, the gradient with respect to the operation's output.
        layout: which of its elements belong to which sample.
    """
    formula = FORMULAS.get((use.node.name(), use.slot))
    if signal.dtype not in (torch.float32, torch.float64):
        signal = signal.float()
    factor = formula(use.node, use, signal, layout) if formula is not None else None
    if use.lookup is None or factor is None:
        return factor
    return _looked_up(use.lookup, factor, use.shape[-1]) if isinstance(factor, Vectors) else None


def has_formula(use: Use) -> bool:
    """Whether the operation is known, whatever its arguments are."""
    return (use.node.name(), use.slot) in FORMULAS


def _by_sample(rows: torch.Tensor, layout: Layout) -> torch.Tensor | None:
    """(rows, width) in the order of a layout → (samples, positions, width); None where a row crosses samples."""
    width = rows.shape[-1]
    if layout.inner % width:
        return None
    parts = rows.reshape(layout.outer, layout.samples, layout.inner // width, width)
    if layout.outer == 1:
        return parts[0]
    return parts.transpose(0, 1).reshape(layout.samples, -1, width)


def _matrix(saved: str, scale: str | None) -> Callable[[Node, Use, torch.Tensor, Layout], Factor | None]:
    """x·W with the parameter as the second matrix."""

    def formula(node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
        outer_side = _by_sample(signal, layout)
        data: torch.Tensor = getattr(node, saved).to(signal.dtype)
        inner_layout = Layout(layout.outer, layout.samples, layout.inner // signal.shape[-1] * data.shape[-1])
        inner_side = _by_sample(data, inner_layout)
        if outer_side is None or inner_side is None:
            return None
        factor = float(getattr(node, scale)) if scale is not None else 1.0
        left, right = (outer_side * factor if factor != 1.0 else outer_side).unsqueeze(1), inner_side.unsqueeze(1)
        samples, _, positions, outputs = left.shape
        return Products(left.__getitem__, right.__getitem__, (samples, 1, positions, outputs, right.shape[-1]))

    return formula


def _broadcast(
    weight: Callable[[Node], torch.Tensor | float],
) -> Callable[[Node, Use, torch.Tensor, Layout], Factor | None]:
    """An element-wise operation whose parameter is stretched over the samples: Σ of weight·δ over what is stretched."""

    def formula(node: Node, use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
        factor = weight(node)
        if isinstance(factor, torch.Tensor):
            if factor.shape != signal.shape:
                factor = factor.expand(signal.shape) if factor.dim() <= signal.dim() else factor
            signal = signal * factor
        elif factor != 1.0:
            signal = signal * factor
        return _stretched(signal, use.shape, layout)

    return formula


def _stretched(values: torch.Tensor, shape: tuple[int, ...], layout: Layout) -> Factor | None:
    """Sum each sample's part of `values` down to `shape`, which broadcasts to the shape of `values`."""
    full = (1,) * (values.dim() - len(shape)) + shape
    axis = _sample_axis(tuple(values.shape), layout)
    if axis is None or full[axis] != 1:
        return None
    size = values.shape[axis]
    inner = layout.inner // math.prod(values.shape[axis + 1 :])
    split = values.reshape(*values.shape[:axis], size // layout.samples // inner, layout.samples, inner,
                           *values.shape[axis + 1 :])  # fmt: skip
    moved = split.movedim(axis + 1, 0)  # (samples, …)
    wanted = (*full[:axis], 1, 1, *full[axis + 1 :])
    axes = [place + 1 for place, kept in enumerate(wanted) if kept == 1]
    return Vectors((moved.sum(axes) if axes else moved).reshape(layout.samples, -1))


def _sample_axis(shape: tuple[int, ...], layout: Layout) -> int | None:
    """The axis in which the samples lie, alone or folded with others."""
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        if layout.inner % inner == 0 and shape[axis] % (layout.samples * (layout.inner // inner)) == 0:
            return axis
    return None


def _row_sums(node: Node, use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """The bias of a matrix product."""
    if math.prod(use.shape) != signal.shape[-1]:
        return None
    parts = _by_sample(signal, layout)
    beta = float(node._saved_beta)  # type: ignore[attr-defined]  # saved by AddmmBackward0
    return Vectors(parts.sum(1) * beta) if parts is not None else None


def _channel_sums(_node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """A bias or shift for each channel on axis 1."""
    return _to_samples(signal.flatten(2).sum(2) if signal.dim() > 2 else signal, signal, layout)


def _to_samples(rows: torch.Tensor, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Per-row values (rows = axis 0 of the signal) summed over the rows of each sample."""
    step = signal.numel() // signal.shape[0]
    if layout.inner % step:
        return None
    parts = _by_sample(rows, Layout(layout.outer, layout.samples, layout.inner // step * rows.shape[-1]))
    return Vectors(parts.sum(1)) if parts is not None else None


def _lookup(node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    saved: Any = node  # Any: the saved attributes of EmbeddingBackward0 have no stubs
    if saved._saved_scale_grad_by_freq:
        return None
    values = _by_sample(signal.reshape(-1, signal.shape[-1]), layout)
    flat = saved._saved_indices.reshape(-1, 1)
    indices = _by_sample(flat, Layout(layout.outer, layout.samples, layout.inner // signal.shape[-1]))
    if values is None or indices is None:
        return None
    return Lookups(_without_padding(indices[:, :, 0], saved._saved_padding_idx), values)


def _looked_up(table: Node, factor: Vectors, width: int) -> Factor | None:
    """Gradients of a lookup's output, as gradients of the rows that every sample shares."""
    saved: Any = table  # Any: as above
    if saved._saved_scale_grad_by_freq:
        return None
    samples = factor.values.shape[0]
    indices = saved._saved_indices.reshape(1, -1).expand(samples, -1)
    return Lookups(_without_padding(indices, saved._saved_padding_idx), factor.values.reshape(samples, -1, width))


def _without_padding(indices: torch.Tensor, padding: int) -> torch.Tensor:
    return torch.where(indices == padding, -1, indices) if padding < 2**62 else indices  # autograd saves −1 as 2⁶⁴ − 1


def _layer_norm_gain(node: Node, use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    saved: Any = node  # Any: as above
    standard = (saved._saved_input.to(signal.dtype) - saved._saved_result1) * saved._saved_result2
    return _last_axes(signal * standard, use, layout)


def _layer_norm_shift(_node: Node, use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    return _last_axes(signal, use, layout)


def _last_axes(values: torch.Tensor, use: Use, layout: Layout) -> Factor | None:
    parts = _by_sample(values.reshape(-1, math.prod(use.shape)), layout)
    return Vectors(parts.sum(1)) if parts is not None else None


def _group_norm_gain(node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    saved: Any = node  # Any: as above
    rows, groups = signal.shape[0], saved._saved_group
    data = saved._saved_input.to(signal.dtype).reshape(rows, groups, -1)
    standard = (data - saved._saved_result1.reshape(rows, groups, 1)) * saved._saved_result2.reshape(rows, groups, 1)
    product = (signal.reshape(rows, groups, -1) * standard).reshape(rows, signal.shape[1], -1)
    return _to_samples(product.sum(2), signal, layout)


def _batch_norm_gain(node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """With running statistics each sample is standardised alone; with the batch's, only where rows are samples' own."""
    saved: Any = node  # Any: as above
    data = saved._saved_input.to(signal.dtype)
    if saved._saved_training:
        mean, scale = saved._saved_result1, saved._saved_result2
    else:
        mean, scale = saved._saved_running_mean, (saved._saved_running_var + saved._saved_eps).rsqrt()
    shape = (1, -1) + (1,) * (data.dim() - 2)
    product = signal * ((data - mean.reshape(shape)) * scale.reshape(shape))
    return _channel_sums(node, _use, product, layout)


def _prelu(node: Node) -> torch.Tensor:
    saved: torch.Tensor = node._saved_self  # type: ignore[attr-defined]  # saved by PreluKernelBackward0
    return saved.clamp(max=0)


def _convolution(node: Node, _use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    saved: Any = node  # Any: as above
    if layout.outer != 1 or signal.shape[0] % layout.samples:
        return None
    data = saved._saved_input.to(signal.dtype)
    kernel = tuple(saved._saved_weight.shape[2:])
    stride, padding, dilation = (tuple(getattr(saved, f"_saved_{name}")) for name in ("stride", "padding", "dilation"))
    groups: int = saved._saved_groups
    # A transposed convolution is the gradient of a convolution: its signal is unfolded and its input is the other side.
    plain, unfolded = (data, signal) if saved._saved_transposed else (signal, data)
    positions = math.prod(plain.shape[2:])
    rows = signal.shape[0] // layout.samples  # images of one sample, where time is folded into the batch

    def sided(values: torch.Tensor) -> torch.Tensor:
        """(images, channels, positions) → (samples, groups, positions of all its images, channels of a group)."""
        parts = values.reshape(-1, rows, groups, values.shape[1] // groups, positions)
        if rows == 1:
            return parts[:, 0].transpose(2, 3)
        return parts.permute(0, 2, 1, 4, 3).reshape(parts.shape[0], groups, rows * positions, -1)

    def left(part: slice) -> torch.Tensor:
        return sided(_images(plain, part, rows).flatten(2))

    def right(part: slice) -> torch.Tensor:
        images = _images(unfolded, part, rows)
        return sided(unfold(images, kernel, stride, padding, dilation, tuple(plain.shape[2:])))

    inputs = unfolded.shape[1] // groups * math.prod(kernel)
    return Products(left, right, (layout.samples, groups, rows * positions, plain.shape[1] // groups, inputs))


def _images(values: torch.Tensor, part: slice, rows: int) -> torch.Tensor:
    return values[part] if rows == 1 else values.reshape(-1, rows, *values.shape[1:])[part].flatten(0, 1)


def _repeat(_node: Node, use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """A parameter laid out once for each sample, as instance normalisation does."""
    if layout.outer != 1 or layout.inner != math.prod(use.shape):
        return None
    return Vectors(signal.reshape(layout.samples, -1))


def unfold(
    data: torch.Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    positions: tuple[int, ...],
) -> torch.Tensor:
    """The patches that a convolution of any number of axes sees: (batch, channels·kernel, positions)."""
    if math.prod(kernel) == 1 and set(padding) == {0} and set(stride) == {1}:
        return data.flatten(2)
    if len(kernel) == 2:
        patches: torch.Tensor = functional.unfold(data, kernel, dilation, padding, stride)
        if patches.shape[2] == math.prod(positions):
            return patches
    padded = functional.pad(data, [side for size in reversed(padding) for side in (size, size)])
    # A stride that does not divide the size leaves rows over, and output padding asks for rows beyond: cut or fill.
    needed = [(p - 1) * s + d * (k - 1) + 1 for p, s, d, k in zip(positions, stride, dilation, kernel, strict=True)]
    lacking = [max(need - size, 0) for need, size in zip(needed, padded.shape[2:], strict=True)]
    if any(lacking):
        padded = functional.pad(padded, [side for size in reversed(lacking) for side in (0, size)])
    padded = padded.contiguous()
    steps = padded.stride()
    view = padded.as_strided(
        (*padded.shape[:2], *kernel, *positions),
        (*steps[:2], *(d * s for d, s in zip(dilation, steps[2:], strict=True)),
         *(t * s for t, s in zip(stride, steps[2:], strict=True))),
    )  # fmt: skip
    return view.reshape(padded.shape[0], padded.shape[1] * math.prod(kernel), math.prod(positions))


FORMULAS: dict[tuple[str, int], Callable[[Node, Use, torch.Tensor, Layout], Factor | None]] = {
    ("AddmmBackward0", 0): _row_sums,
    ("AddmmBackward0", 2): _matrix("_saved_mat1", "_saved_alpha"),
    ("MmBackward0", 1): _matrix("_saved_self", None),
    ("ConvolutionBackward0", 1): _convolution,
    ("ConvolutionBackward0", 2): _channel_sums,
    ("EmbeddingBackward0", 0): _lookup,
    ("NativeLayerNormBackward0", 1): _layer_norm_gain,
    ("NativeLayerNormBackward0", 2): _layer_norm_shift,
    ("NativeGroupNormBackward0", 1): _group_norm_gain,
    ("NativeGroupNormBackward0", 2): _channel_sums,
    ("NativeBatchNormBackward0", 1): _batch_norm_gain,
    ("NativeBatchNormBackward0", 2): _channel_sums,
    ("AddBackward0", 0): _broadcast(lambda _node: 1.0),
    ("AddBackward0", 1): _broadcast(lambda node: float(node._saved_alpha)),  # type: ignore[attr-defined]  # no stub
    ("SubBackward0", 0): _broadcast(lambda _node: 1.0),
    ("SubBackward0", 1): _broadcast(lambda node: -float(node._saved_alpha)),  # type: ignore[attr-defined]  # no stub
    ("MulBackward0", 0): _broadcast(lambda node: node._saved_other),  # type: ignore[attr-defined]  # no stub
    ("MulBackward0", 1): _broadcast(lambda node: node._saved_self),  # type: ignore[attr-defined]  # no stub
    ("RepeatBackward0", 0): _repeat,
    ("ExpandBackward0", 0): _broadcast(lambda _node: 1.0),
    ("PreluKernelBackward0", 1): _broadcast(_prelu),
}
ELEMENTWISE = frozenset(
    {"AddBackward0", "SubBackward0", "MulBackward0", "ExpandBackward0", "RepeatBackward0", "PreluKernelBackward0"}
)
