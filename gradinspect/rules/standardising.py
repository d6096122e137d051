"""The remedy for data of the wrong scale: the mean and the standard deviation to standardise it by."""

from __future__ import annotations

from gradinspect.contracts.report.report import Remedy
from gradinspect.contracts.report.setup import BatchTensor

MOST_NUMBERS = 256  # chosen: with more features, one mean and one deviation for all


def standardise(action: str, tensor: BatchTensor, *, position: int | None = None) -> Remedy | None:
    """Return the action with the numbers of the batch: by feature where there are few, else one for all.

    Args:
        action: `standardise_inputs` or `standardise_targets`.
        tensor: what is to be standardised.
        position: of the input among several.

    Returns:
        None where the data does not vary.
    """
    arguments: dict[str, object] = {}
    means, stds = tensor.feature_means, tensor.feature_stds
    if tensor.feature_axis is not None and 1 < len(means) <= MOST_NUMBERS and None not in (*means, *stds):
        # A feature that does not vary is left as it is, but for its mean.
        arguments = {
            "mean": list(means), "std": [std if std else 1.0 for std in stds], "axis": tensor.feature_axis,
            "dimensions": len(tensor.shape),
        }  # fmt: skip
    elif tensor.mean is not None and tensor.std:
        arguments = {"mean": [float(f"{tensor.mean:.6g}")], "std": [float(f"{tensor.std:.6g}")]}
    else:
        return None
    if position is not None:
        arguments["position"] = position
    return Remedy(action=action, arguments=arguments)
