"""Per-sample gradients of convolutions of any number of axes, transposed and grouped ones included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from gradinspect.engine.per_sample.formulas.factors import Factor, Products
from gradinspect.engine.per_sample.formulas.registry import formula
from gradinspect.engine.per_sample.formulas.sample_rows import channel_sums
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout


@dataclass(frozen=True)
class Window:
    """A sliding window, one number for each axis.

    Attributes:
        kernel: size.
        stride: step between positions.
        padding: zeros before and after the data.
        dilation: step between elements of the window.
        positions: number of positions.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    positions: tuple[int, ...]


@formula("ConvolutionBackward0", slot=1)
def convolution_weight(use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np ⊗ patch_np, group by group."""
    if layout.outer != 1 or signal.shape[0] % layout.samples:
        return None
    saved = saved_by(use.node)
    data = saved._saved_input.to(signal.dtype)
    # A transposed convolution is the gradient of a convolution: signal and input change places.
    plain, windowed = (data, signal) if saved._saved_transposed else (signal, data)
    window = Window(
        kernel=tuple(saved._saved_weight.shape[2:]),
        stride=tuple(saved._saved_stride),
        padding=tuple(saved._saved_padding),
        dilation=tuple(saved._saved_dilation),
        positions=tuple(plain.shape[2:]),
    )
    groups: int = saved._saved_groups
    rows = signal.shape[0] // layout.samples  # images of one sample, where time is folded into the batch

    def left(part: slice) -> torch.Tensor:
        return _by_group(_images(plain, part, rows).flatten(2), rows, groups)

    def right(part: slice) -> torch.Tensor:
        return _by_group(unfold(_images(windowed, part, rows), window), rows, groups)

    positions = rows * math.prod(window.positions)
    inputs = windowed.shape[1] // groups * math.prod(window.kernel)
    return Products(left, right, (layout.samples, groups, positions, plain.shape[1] // groups, inputs))


@formula("ConvolutionBackward0", slot=2)
def convolution_bias(_use: Use, signal: torch.Tensor, layout: Layout) -> Factor | None:
    """Return Σ_p δ_np for each channel."""
    return channel_sums(signal, layout)


def unfold(data: torch.Tensor, window: Window) -> torch.Tensor:
    """Extract the patches that a convolution sees: (batch, channels, …) → (batch, channels·kernel, positions).

    >>> data = torch.arange(4.0).reshape(1, 1, 4)
    >>> unfold(data, Window(kernel=(2,), stride=(1,), padding=(0,), dilation=(1,), positions=(3,))).tolist()
    [[[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]]
    """
    if math.prod(window.kernel) == 1 and set(window.padding) == {0} and set(window.stride) == {1}:
        return data.flatten(2)
    if len(window.kernel) == 2:
        patches: torch.Tensor = functional.unfold(data, window.kernel, window.dilation, window.padding, window.stride)
        if patches.shape[2] == math.prod(window.positions):
            return patches
    # A stride that does not divide the size, and output padding, leave elements over that no window reaches.
    padded = functional.pad(data, [side for size in reversed(window.padding) for side in (size, size)]).contiguous()
    steps = padded.stride()
    view = padded.as_strided(
        (*padded.shape[:2], *window.kernel, *window.positions),
        (
            *steps[:2],
            *(dilation * step for dilation, step in zip(window.dilation, steps[2:], strict=True)),
            *(stride * step for stride, step in zip(window.stride, steps[2:], strict=True)),
        ),
    )
    return view.reshape(padded.shape[0], padded.shape[1] * math.prod(window.kernel), math.prod(window.positions))


def _by_group(values: torch.Tensor, rows: int, groups: int) -> torch.Tensor:
    """Reorder (images, channels, positions) to (samples, groups, positions of all its images, channels of a group)."""
    parts = values.reshape(-1, rows, groups, values.shape[1] // groups, values.shape[2])
    if rows == 1:
        return parts[:, 0].transpose(2, 3)
    return parts.permute(0, 2, 1, 4, 3).reshape(parts.shape[0], groups, rows * values.shape[2], -1)


def _images(values: torch.Tensor, part: slice, rows: int) -> torch.Tensor:
    """Return the images of a range of samples, each of which has `rows` of them."""
    return values[part] if rows == 1 else values.reshape(-1, rows, *values.shape[1:])[part].flatten(0, 1)
