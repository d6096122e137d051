"""Averages of report rows over several passes: independent initializations, or batches.

The rule of each number is in its field (`contracts.report.rows.Mean`). A value that some passes lack is averaged over
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any, TypeVar, get_args

from gradinspect.contracts.report.rows import (
    LayerMeasurement,
    Mean,
    ParameterMeasurement,
    Row,
    joint_gradient_norm,
)
from gradinspect.engine.rows.depth_decay import geometric_mean

RowT = TypeVar("RowT", bound=Row)

_NUMERIC: Mapping[str, Callable[[Sequence[float]], float | None]] = {
    "arithmetic": fmean, "geometric": geometric_mean, "largest": max,
}  # fmt: skip


def average_layers(
    passes: Sequence[Sequence[LayerMeasurement]], parameters: Iterable[ParameterMeasurement]
) -> tuple[LayerMeasurement, ...]:
    """Average the layer rows of several passes; the first pass decides which layer calls there are.

    Args:
        passes: the layer rows of each pass.
        parameters: the averaged parameter rows: a layer's gradient norm is that of its parameters' averages.
    """
    if len(passes) == 1:
        return tuple(passes[0])
    later = [{(row.name, row.call): row for row in rows} for rows in passes[1:]]
    by_name = {row.name: row for row in parameters}
    return tuple(
        _average([row, *(rows[row.name, row.call] for rows in later if (row.name, row.call) in rows)]).model_copy(
            update={"grad_norm": joint_gradient_norm(row.parameters, by_name)}
        )
        for row in passes[0]
    )


def average_parameters(passes: Sequence[Sequence[ParameterMeasurement]]) -> tuple[ParameterMeasurement, ...]:
    """Average the parameter rows of several passes; a parameter that any pass trains is trained."""
    if len(passes) == 1:
        return tuple(passes[0])
    return tuple(
        _average(rows).model_copy(update={"status": "trained"})
        if any(row.status == "trained" for row in rows)
        else _average(rows)
        for rows in zip(*passes, strict=True)
    )


def _average(rows: Sequence[RowT]) -> RowT:
    first = rows[0]
    changes: dict[str, object] = {}
    for field, rule in averaging_rules(type(first)).items():
        known = [value for value in (getattr(row, field) for row in rows) if value is not None]
        if not known or rule == "first":
            continue
        changes[field] = _average(known) if rule == "each_field" else _NUMERIC[rule](known)
    return first.model_copy(update=changes)


@cache
def averaging_rules(model: type[Row]) -> dict[str, str]:
    """Return the averaging rule of each number and each row in a row.

    Raises:
        TypeError: a field that holds a number or a row has no `Mean`.
    """
    rules: dict[str, str] = {}
    for name, field in model.model_fields.items():
        mean = next((item for item in field.metadata if isinstance(item, Mean)), None)
        if mean is not None:
            rules[name] = mean.rule
        elif _needs_rule(field.annotation):
            raise TypeError(f"{model.__name__}.{name} is a number without a rule for averages; annotate it with Mean")
    return rules


def _needs_rule(annotation: Any) -> bool:  # Any: the annotation of a field
    if isinstance(annotation, type):
        return annotation is not bool and issubclass(annotation, int | float | Row)
    return not _is_tuple(annotation) and any(_needs_rule(part) for part in get_args(annotation))


def _is_tuple(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is tuple
