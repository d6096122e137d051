"""Conversion between a nested measurement and its flat row: `activation.std` is the column `activation_std`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from service.db.texts import storable

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Field:
    """One leaf of a measurement and its column."""

    column: str
    path: tuple[str, ...]
    is_json: bool
    is_number: bool
    is_string: bool


class Shape:
    """The mapping of one kind of measurement to its table."""

    def __init__(
        self,
        measurement: type[BaseModel],
        *,
        opaque: frozenset[str] = frozenset(),
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        """Choose the columns.

        Args:
            opaque: nested objects that are kept whole, as JSON.
            left_out: fields without a column: rows read from the table have their defaults.
        """
        stored = {name: field for name, field in measurement.model_fields.items() if name not in left_out}
        inner = {
            name: document
            for name, field in stored.items()
            if name not in opaque and (document := _document(field.annotation)) is not None
        }
        plain = [_leaf((name,), field.annotation) for name, field in stored.items() if name not in inner]
        self.nested = {
            name: tuple(_leaf((name, part), leaf.annotation) for part, leaf in document.model_fields.items())
            for name, document in inner.items()
        }
        self.fields = (*plain, *(field for fields in self.nested.values() for field in fields))
        self.columns = (*(["nested"] if self.nested else []), *(field.column for field in self.fields))
        self.numbers = frozenset(field.column for field in self.fields if field.is_number)
        self._plain = attrgetter(*(field.path[0] for field in plain))
        self._inner = [
            (name, attrgetter(name), attrgetter(*(field.path[1] for field in fields)), [None] * len(fields))
            for name, fields in self.nested.items()
        ]
        self._texts = [index for index, field in enumerate(self.fields) if field.is_json]
        self._strings = [index for index, field in enumerate(self.fields) if field.is_string]

    def flatten(self, measurement: BaseModel) -> list[Value]:
        """Turn a measurement into the values of `columns`, JSON as text. Cost: about 5 µs per row; keep it low."""
        values: list[Any] = [*self._plain(measurement)]  # Any: the values of any field
        present = []
        for name, of, parts, absent in self._inner:
            document = of(measurement)
            if document is None:
                values += absent
            else:
                values += parts(document)
                present.append(name)
        for index in self._texts:
            if values[index] is not None:
                values[index] = _text(values[index])
        for index in self._strings:
            if values[index] is not None:
                values[index] = storable(values[index])
        return [_text(tuple(present)), *values] if self.nested else values

    def unflatten(self, row: Mapping[str, Any]) -> dict[str, Any]:  # Any: values as the database gives them
        """Turn a row, by column, into the fields of a measurement."""
        document: dict[str, Any] = {field.path[0]: row[field.column] for field in self.fields if len(field.path) == 1}
        present = row["nested"] if self.nested else ()
        for name, fields in self.nested.items():
            document[name] = {field.path[1]: row[field.column] for field in fields} if name in present else None
        return document


def _leaf(path: tuple[str, ...], annotation: Any) -> Field:  # Any: a type expression
    kinds = _kinds(annotation)
    return Field(
        column="_".join(path),
        path=path,
        is_json=bool(kinds & {tuple, dict}) or any(issubclass(kind, BaseModel) for kind in kinds),
        is_number=bool(kinds & {int, float}) and bool not in kinds,
        is_string=str in kinds,
    )


def _kinds(annotation: Any) -> set[type]:  # Any: a type expression
    """Return the plain classes that an annotation allows, without None."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    if origin is not None and not isinstance(origin, type):  # Annotated has a class for origin, Literal has not
        return {type(value) for value in get_args(annotation)}
    if hasattr(annotation, "__metadata__"):
        return _kinds(get_args(annotation)[0])
    kind = origin or annotation
    return set() if kind is type(None) else {kind}


def _document(annotation: Any) -> type[BaseModel] | None:  # Any: a type expression
    for kind in _kinds(annotation):
        if issubclass(kind, BaseModel):
            return kind
    return None


def _written(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON of a contract")


_encode = json.JSONEncoder(separators=(",", ":"), default=_written).encode


@lru_cache(maxsize=1024)
def _text_of_tuple(value: tuple[object, ...]) -> str:
    """Write JSON, with a cache, because shapes and lists of names repeat from row to row."""
    return _encode(value)


def _text(value: object) -> str:
    return _text_of_tuple(value) if isinstance(value, tuple) else _encode(value)


# The graph of layer calls is read from the whole report; no query asks for single rows by it.
_OF_THE_GRAPH = frozenset(
    {"inputs", "successors", "on_trunk", "normalised_scale", "gate_factor", "recurrence_calls", "recurrence_gain",
     "opened"}
)  # fmt: skip
LAYERS = Shape(LayerMeasurement, left_out=_OF_THE_GRAPH)
PARAMETERS = Shape(ParameterMeasurement)
FINDINGS = Shape(Finding, opaque=frozenset({"remedy", "operation"}))
