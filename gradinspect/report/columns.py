"""The numbers that a table of layer calls shows, in every form: one line here adds one to all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel

from gradinspect.contracts.report.rows import LayerMeasurement


@dataclass(frozen=True)
class Column:
    """One number of a layer call.

    Attributes:
        field: path of the number in `LayerMeasurement`, with a dot for a nested one: `signal.rms`.
        title: the heading, in lower case.
        hint: the definition in one line.
        rank: a narrow terminal leaves out the highest ranks first; rank 1 always stays.
        derive: turns the field into the number shown.
    """

    field: str
    title: str
    hint: str
    rank: int
    derive: Callable[[float], float] | None = None

    @property
    def name(self) -> str:
        """Return the field's name in addresses, CSV files and data frames: `signal_rms`."""
        return self.field.replace(".", "_")

    def value(self, layer: LayerMeasurement) -> float | None:
        """Read the number of one layer call; None where it was not measured."""
        found = value_at(layer, tuple(self.field.split(".")))
        return found if found is None or self.derive is None else self.derive(found)


def _root(chi1: float) -> float:
    return math.sqrt(max(chi1, 0.0))


# fmt: off
COLUMNS = (
    Column("signal.rms", "signal rms", "gradient of the loss with respect to the output, rms over its elements", 4),
    Column("backward_gain", "backward gain", "signal here over the signal at the next call towards the loss", 1),
    Column("predicted_chi1", "theory", "backward gain √χ1 that mean-field theory gives these weights in a wide network",
           3, _root),
    Column("cumulative_backward_gain", "cumulative", "signal here over the signal at the last layer call", 1),
    Column("activation_gain", "activation gain", "the nonlinearity's part of the backward gain", 5),
    Column("weight_gain", "weight gain", "the weight's part of the backward gain", 6),
    Column("grad_norm", "gradient norm", "l2 norm of the gradients of the layer's parameters together", 7),
    Column("forward_gain", "forward gain", "rms of the output over rms of the input", 9),
    Column("sample_similarity", "similarity", "mean cosine between the outputs of two samples", 10),
)
# fmt: on


def columns_with_values(layers: Sequence[LayerMeasurement]) -> tuple[Column, ...]:
    """Choose the columns that have a number in at least one row."""
    return tuple(column for column in COLUMNS if any(column.value(layer) is not None for layer in layers))


def flat_fields(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List the paths of a row's fields, with those of nested documents in place of the documents.

    >>> ("signal", "rms") in list(flat_fields(LayerMeasurement))
    True
    """
    for name, field in kind.model_fields.items():
        nested = _document_in(field.annotation)
        if nested is not None:
            yield from flat_fields(nested, (*path, name))
        else:
            yield (*path, name)


def value_at(row: BaseModel, path: tuple[str, ...]) -> Any:  # Any: whatever a row holds
    """Read a nested field; None where a document on the way is missing."""
    value: Any = row
    for name in path:
        if value is None:
            return None
        value = getattr(value, name)
    return value


def _document_in(annotation: object) -> type[BaseModel] | None:
    """Return the document class of `Document` or `Document | None`, else None."""
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)
