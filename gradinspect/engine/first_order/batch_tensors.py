"""Statistics of the batch: scale and offset of every input and target, per feature, and samples that contradict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from gradinspect.contracts.report.setup import MAX_FEATURES, MAX_TENSORS, BatchTensor
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.batch import tensors_in
from gradinspect.engine.tracing.calls import LayerCall

_MOST_ELEMENTS = 2**16  # chosen: of one tensor that are read; a millisecond
_MASKING = -1e4  # chosen: what is added to logits to mask them is at least this far below 0
_RARELY_ZERO = 0.1  # share of zeros up to which a feature counts as dense
_VARIES = 1e-6  # of its rms: a smaller spread is rounding
_SAME_SIZE = 5e-3  # relative: half precision rounds an input that is cast
_MOST_LAYERS = 16
_FEWEST = 8  # chosen: elements of a feature; mean and deviation of fewer say little


def batch_tensors(s: SectionInput) -> tuple[BatchTensor, ...]:
    """Measure every input and target of the first pass.

    Cost: at most `_MOST_ELEMENTS` elements of each tensor, and one pass over each input for its norm.
    """
    named = [*((f"input {index}", tensor) for index, tensor in enumerate(tensors_in(s.batch.inputs)))]
    targets = tensors_in(s.target)
    named += [("target" if len(targets) == 1 else f"target {index}", tensor) for index, tensor in enumerate(targets)]
    return tuple(_measured(name, tensor.detach(), s) for name, tensor in named[:MAX_TENSORS] if _has_values(tensor))


def conflicting_samples(inputs: Sequence[torch.Tensor], target: object) -> float | None:
    """Return the share of samples whose input is that of another sample with a different target.

    Discrete inputs repeat by nature, so it is None for a batch that has no continuous input.
    """
    targets = tensors_in(target)
    if not targets or not inputs or not any(_is_continuous(tensor) for tensor in inputs):
        return None
    samples = inputs[0].shape[0] if inputs[0].dim() else 0
    if samples < 2 or any(not each.dim() or each.shape[0] != samples for each in (*inputs, *targets)):
        return None
    keys = _row_keys(inputs, samples)
    repeated = {key for key, count in Counter(keys).items() if count > 1}
    rows = [index for index, key in enumerate(keys) if key in repeated]
    if not rows:
        return 0.0
    # Where samples were compared by a part of their elements, all elements decide.
    alike = _row_keys([each[rows] for each in inputs], len(rows), most=None)
    labels = _row_keys([each[rows] for each in targets], len(rows), most=None)
    first = dict(zip(reversed(alike), reversed(labels), strict=True))
    differing = {key for key, label in zip(alike, labels, strict=True) if first[key] != label}
    return sum(key in differing for key in alike) / samples


def _has_values(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and bool(tensor.numel()) and tensor.dtype is not torch.bool


def _measured(name: str, tensor: torch.Tensor, s: SectionInput) -> BatchTensor:
    is_input = name.startswith("input")
    first = BatchTensor(
        name=name, role="input" if is_input else "target", dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
    )  # fmt: skip
    if tensor.is_complex():
        return first
    takers = _takers(tensor, s.reading.calls) if is_input else []
    axis = _feature_axis(tensor, takers)
    fields = _statistics(_sample(tensor, axis)) | {"feature_axis": axis}
    names = [s.names[call.order].name for call in takers]
    return first.model_copy(update=fields | {"layers": tuple(dict.fromkeys(names))[:_MOST_LAYERS]})


def _takers(tensor: torch.Tensor, calls: Sequence[LayerCall]) -> list[LayerCall]:
    """Return the calls whose input has the tensor's size: they take it as it is, up to reshapes."""
    rms = math.sqrt(
        float(tensor.double().square().mean()) if tensor.numel() <= _MOST_ELEMENTS else _mean_square(tensor)
    )
    return [
        call
        for call in calls
        if call.source is None
        and call.input_numel == tensor.numel()
        and call.input_rms is not None
        and math.isclose(call.input_rms, rms, rel_tol=_SAME_SIZE)
    ]


def _mean_square(tensor: torch.Tensor) -> float:
    values = tensor if tensor.is_floating_point() else tensor.float()
    return float(torch.linalg.vector_norm(values, dtype=torch.float64) ** 2) / tensor.numel()


def _feature_axis(tensor: torch.Tensor, takers: Sequence[LayerCall]) -> int | None:
    """Return the axis of the features: the channels of a convolution, else the last one of up to 3 axes.

    None for one axis, for plain signals, and where each feature has few elements.
    """
    axes = tensor.dim()
    is_convolved = any("conv" in call.operation for call in takers)
    if axes < 2 or (axes == 2 and is_convolved):
        return None
    axis = 1 if axes == 2 or axes > 3 or is_convolved else 2
    return axis if tensor.numel() >= _FEWEST * tensor.shape[axis] else None


def _sample(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Return a sample of the tensor as (elements, features), in float64."""
    if axis is None:
        flat = tensor.reshape(-1)
        return flat[:: max(1, -(-flat.numel() // _MOST_ELEMENTS))].double()[:, None]
    kept = tensor
    for along in range(tensor.dim()):  # the batch first, then positions
        if along != axis and kept.numel() > _MOST_ELEMENTS:
            step = min(-(-kept.numel() // _MOST_ELEMENTS), kept.shape[along])
            kept = kept[(slice(None),) * along + (slice(None, None, step),)]
    return kept.movedim(axis, -1).reshape(-1, tensor.shape[axis]).double()


def _statistics(rows: torch.Tensor) -> dict[str, object]:
    """Compute the fields of `BatchTensor` from (elements, features)."""
    is_masking = bool((rows == -math.inf).any())
    finite = torch.isfinite(rows)
    rows = torch.where(finite, rows, 0.0)
    counts = finite.sum(0)
    nonzero = (rows != 0).sum(0)
    sums, squares = rows.sum(0), rows.square().sum(0)
    means = sums / counts.clamp_min(1)
    deviations = (torch.where(finite, rows - means, 0.0).square().sum(0) / counts.clamp_min(1)).sqrt()
    sizes = (squares / nonzero.clamp_min(1)).sqrt()
    total = int(counts.sum())
    mean = float(sums.sum()) / max(total, 1)
    spread = math.sqrt(float(torch.where(finite, rows - mean, 0.0).square().sum()) / max(total, 1))
    lowest = float(rows.min())
    is_masking |= lowest <= _MASKING and bool(((rows == 0) | (rows == lowest)).all())
    fields: dict[str, object] = {
        "zero_fraction": 1.0 - float(nonzero.sum()) / total if total else None,
        "mean": mean,
        "std": spread,
        "rms": math.sqrt(float(squares.sum()) / max(int(nonzero.sum()), 1)),
        "abs_max": float(rows.abs().max()),
        "is_mask": is_masking,
        "largest_rms": float(sizes.max()),
        "largest_feature": int(sizes.argmax()),
    }
    dense = (nonzero >= (1 - _RARELY_ZERO) * counts) & (deviations > _VARIES * sizes) & (counts > 1)
    if bool(dense.any()):
        small = torch.where(dense, sizes, math.inf)
        offsets = torch.where(dense, means.abs() / deviations.clamp_min(1e-300), 0.0)
        fields |= {
            "smallest_rms": float(small.min()), "smallest_feature": int(small.argmin()),
            "largest_offset": float(offsets.max()), "offset_feature": int(offsets.argmax()),
        }  # fmt: skip
    if rows.shape[1] <= MAX_FEATURES:
        fields |= {"feature_means": _rounded(means), "feature_stds": _rounded(deviations)}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }


def _rounded(values: torch.Tensor) -> tuple[float | None, ...]:
    return tuple(float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist())


def _is_continuous(tensor: torch.Tensor) -> bool:
    """Check for values that are not all whole numbers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    values = tensor.detach().reshape(-1)[:_MOST_ELEMENTS]
    return bool((values != values.round()).any())


def _row_keys(tensors: Sequence[torch.Tensor], samples: int, most: int | None = _MOST_ELEMENTS) -> list[bytes]:
    """Return the bytes of each sample, of `most` elements of each tensor."""
    keys = [b""] * samples
    for tensor in tensors:
        values = tensor.detach().reshape(samples, -1)
        step = max(1, values.numel() // most) if most is not None else 1
        rows = values[:, ::step].double().cpu().numpy()
        keys = [key + row.tobytes() for key, row in zip(keys, rows, strict=True)]
    return keys
