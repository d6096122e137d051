"""Tensors as NumPy arrays on the host, without a copy where that is possible."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]
_NATIVE = frozenset({torch.float32, torch.float64})


def flat_values(tensor: torch.Tensor, *, in_order: bool = False) -> torch.Tensor:
    """View a tensor's values as one axis of float32 or float64, without a copy where that is possible.

    Args:
        in_order: preserve the order of the elements. Without it a tensor that fills its memory in another order
            (channels last, a transpose) is read in memory order.

    Returns:
        Of a sparse tensor, the stored values; of a complex one, the moduli.
    """
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.coalesce().values() if values.is_sparse else values.to_dense()
    if values.is_complex():
        values = values.abs()
    if values.dtype is not torch.float32 and values.dtype is not torch.float64:
        values = values.float()
    if not in_order and not values.is_contiguous() and _fills_its_memory(values):
        return values.as_strided((values.numel(),), (1,))
    return values.reshape(-1)


def _fills_its_memory(values: torch.Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(values.stride(), values.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def flat_array(tensor: torch.Tensor, *, in_order: bool = False) -> Array:
    """Return `flat_values` as a NumPy array, copied to the host from a device."""
    if tensor.dtype in _NATIVE and tensor.layout is torch.strided and tensor.is_cpu and tensor.is_contiguous():
        array: Array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
        return array.reshape(-1)
    values = flat_values(tensor, in_order=in_order)
    return (values if values.device.type == "cpu" else values.cpu()).numpy()


def host_array(tensor: torch.Tensor) -> Array:
    """Return a dense tensor as an array of its shape, in float32 or float64; of a complex one, the moduli."""
    values = tensor.detach() if tensor.requires_grad else tensor
    values = values.abs() if values.is_complex() else values
    array: Array = (values if values.dtype in _NATIVE else values.float()).numpy(force=True)
    return array
