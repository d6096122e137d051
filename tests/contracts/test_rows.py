"""Memory of a report's rows, of which one process holds tens of thousands."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Log2Histogram,
    Number,
    ParameterMeasurement,
    Quantiles,
    Row,
    Share,
    SignalStatistics,
)

ROWS = 500
SLACK = 1.1  # the list of rows and Pydantic's one-time objects; one set of names per row would give 1.8 to 2


def numbers(kind: type[BaseModel], position: int) -> dict[str, Any]:  # Any: keyword arguments of a row
    """Return a different number for each field that holds one."""
    named = [name for name, field in kind.model_fields.items() if field.annotation in (Number, Share)]
    return {name: 1 / (2 + position + place) for place, name in enumerate(named)}


def layer(position: int) -> LayerMeasurement:
    return LayerMeasurement(
        depth=position,
        name=f"layers.{position}",
        call=0,
        kind="Linear",
        parameters=(f"layers.{position}.weight",),
        output_shape=(8, 64),
        activation=ActivationStatistics(**numbers(ActivationStatistics, position)),
        preactivation=ActivationStatistics(**numbers(ActivationStatistics, position)),
        signal=SignalStatistics(**numbers(SignalStatistics, position)),
        **numbers(LayerMeasurement, position),
    )


def parameter(position: int) -> ParameterMeasurement:
    return ParameterMeasurement(
        name=f"layers.{position}.weight",
        layer=f"layers.{position}",
        shape=(64, 64),
        numel=4096,
        dtype="float32",
        status="trained",
        grad_quantiles=Quantiles(**numbers(Quantiles, position)),
        log2_histogram=Log2Histogram(lowest=-9, counts=tuple(range(position, position + 9))),
        **numbers(ParameterMeasurement, position),
    )


def size(value: object) -> int:
    """Return the bytes of a value and its contents, without the field names, which all rows share."""
    own = sys.getsizeof(value)
    if isinstance(value, BaseModel):
        return own + sys.getsizeof(value.__dict__) + sum(map(size, value.__dict__.values()))
    return own + sum(map(size, value)) if isinstance(value, tuple) else own


@pytest.mark.parametrize("make", [layer, parameter])
def test_a_row_takes_the_memory_of_its_fields_and_no_more(make: Callable[[int], Row]) -> None:
    expected = sum(size(make(position)) for position in range(ROWS))
    gc.collect()
    tracemalloc.start()
    try:
        rows = [make(position) for position in range(ROWS)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == ROWS
    assert taken < SLACK * expected


@pytest.mark.parametrize("make", [layer, parameter])
def test_rows_of_a_kind_share_their_field_names_however_they_were_made(make: Callable[[int], Row]) -> None:
    made = make(3)
    read = type(made).model_validate_json(made.model_dump_json())
    constructed = type(made).model_construct(**{name: getattr(made, name) for name in type(made).model_fields})
    assert made == read == constructed
    assert made.model_fields_set is read.model_fields_set is constructed.model_fields_set
    assert made.model_fields_set == set(type(made).model_fields)


def test_a_changed_copy_leaves_the_row_unchanged() -> None:
    row = layer(1)
    copied = row.model_copy(update={"grad_norm": 5.0})
    assert (copied.grad_norm, row.grad_norm) == (5.0, layer(1).grad_norm)
    assert copied.model_dump(exclude={"grad_norm"}) == row.model_dump(exclude={"grad_norm"})


@pytest.mark.parametrize("make", [layer, parameter])
def test_a_copied_row_shares_the_set_too(make: Callable[[int], Row]) -> None:
    row = make(0)
    copied = row.model_copy(update={"grad_norm": 7.0})
    assert copied.model_fields_set is row.model_fields_set
    assert copied.model_fields_set == set(type(row).model_fields)
    assert copied == type(row).model_validate({**row.model_dump(), "grad_norm": 7.0})
