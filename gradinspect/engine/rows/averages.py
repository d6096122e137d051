"""One set of rows from several passes: independent initialisations, or batches.

Norms and gains vary by factors, so they are averaged geometrically; shares, means and similarities arithmetically;
counts keep their largest value. A value that a pass lacks is averaged over the others. What describes a distribution
(quantiles, histogram) is the first pass's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeVar

from gradinspect.contracts.document import Document
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    ParameterMeasurement,
    SignalStatistics,
)
from gradinspect.engine.rows.depth_decay import geometric_mean
from gradinspect.engine.rows.layer_rows import gradient_norm

RowT = TypeVar("RowT", bound=Document)

_ARITHMETIC = frozenset(
    {"mean", "grad_mean", "zero_fraction", "dead_unit_fraction", "saturated_fraction", "sample_similarity",
     "fp16_flush_fraction", "bf16_flush_fraction"}
)  # fmt: skip
_LARGEST = frozenset({"nonfinite_count", "nan_count", "inf_count", "weight_nonfinite_count"})
_SAME = frozenset({"depth", "call", "numel"})


def average_layers(
    passes: Sequence[Sequence[LayerMeasurement]], parameters: Iterable[ParameterMeasurement]
) -> tuple[LayerMeasurement, ...]:
    """Average the layer rows of several passes over one structure; the first pass decides the structure.

    Args:
        passes: the layer rows of each pass.
        parameters: the averaged parameter rows: a layer's gradient norm is that of its parameters' averages.
    """
    if len(passes) == 1:
        return tuple(passes[0])
    others = [{(row.name, row.call): row for row in rows} for rows in passes[1:]]
    by_name = {row.name: row for row in parameters}
    return tuple(
        _average([row, *(found[row.name, row.call] for found in others if (row.name, row.call) in found)]).model_copy(
            update={"grad_norm": gradient_norm(row.parameters, by_name)}
        )
        for row in passes[0]
    )


def average_parameters(passes: Sequence[Sequence[ParameterMeasurement]]) -> tuple[ParameterMeasurement, ...]:
    """Average the parameter rows of several passes."""
    if len(passes) == 1:
        return tuple(passes[0])
    return tuple(_average(list(rows)) for rows in zip(*passes, strict=True))


def _average(rows: list[RowT]) -> RowT:
    first = rows[0]
    changes: dict[str, object] = {}
    for field in type(first).model_fields:
        known = [value for value in (getattr(row, field) for row in rows) if value is not None]
        if not known or field in _SAME:
            continue
        if isinstance(known[0], ActivationStatistics | SignalStatistics):
            changes[field] = _average(known)
        elif field in _LARGEST:
            changes[field] = max(known)
        elif field == "status":
            changes[field] = "trained" if "trained" in known else known[0]
        elif isinstance(known[0], int | float) and not isinstance(known[0], bool):
            numbers = [float(value) for value in known]
            changes[field] = fmean(numbers) if field in _ARITHMETIC else geometric_mean(numbers)
    return first.model_copy(update=changes)
