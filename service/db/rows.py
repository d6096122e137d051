"""Between a nested measurement of the report and its flat row: `activation.std` is the column `activation_std`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from gradinspect.contracts.report import Finding, LayerMeasurement, ParameterMeasurement

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Field:
    """One leaf of a measurement and its column."""

    column: str
    path: tuple[str, ...]
    is_json: bool
    is_number: bool


class Shape:
    """How one kind of measurement lies in its table."""

    def __init__(self, measurement: type[BaseModel], *, opaque: frozenset[str] = frozenset()) -> None:
        """Args: opaque: nested objects that are kept whole, as JSON."""
        self.measurement = measurement
        self.nested = tuple(
            name
            for name, field in measurement.model_fields.items()
            if _document(field.annotation) and name not in opaque
        )
        self.fields = tuple(self._leaves())

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The columns that hold a number."""
        return frozenset(field.column for field in self.fields if field.is_number)

    @cached_property
    def flatten(self) -> Callable[[Any], list[Value]]:  # Any: an instance of `measurement`
        """Turn a measurement into the values of `fields`, JSON as text, with `nested` first where there is any."""
        plain = attrgetter(*(field.path[0] for field in self.fields))
        inner = [(i, field.path[1]) for i, field in enumerate(self.fields) if len(field.path) == 2]
        texts = [i for i, field in enumerate(self.fields) if field.is_json]
        nested = attrgetter(*self.nested) if len(self.nested) > 1 else None

        def flatten(measurement: Any) -> list[Value]:  # Any: as above
            values = list(plain(measurement))
            for index, name in inner:
                if values[index] is not None:
                    values[index] = getattr(values[index], name)
            for index in texts:
                values[index] = _text(values[index])
            if nested is None:
                return values
            present = [name for name, value in zip(self.nested, nested(measurement), strict=True) if value is not None]
            return [_text(present), *values]

        return flatten

    def unflatten(self, row: Mapping[str, Any]) -> dict[str, Any]:  # Any: values as the database gives them
        """Turn a row, by column, into the fields of a measurement."""
        present = row.get("nested") or ()
        document: dict[str, Any] = {name: {} if name in present else None for name in self.nested}
        for field in self.fields:
            if len(field.path) == 1:
                document[field.path[0]] = row[field.column]
            elif field.path[0] in present:
                document[field.path[0]][field.path[1]] = row[field.column]
        return document

    def _leaves(self) -> Sequence[Field]:
        leaves = []
        for name, field in self.measurement.model_fields.items():
            inner = _document(field.annotation) if name in self.nested else None
            if inner is None:
                leaves.append(_leaf((name,), field.annotation))
            else:
                leaves += [_leaf((name, part), leaf.annotation) for part, leaf in inner.model_fields.items()]
        return leaves


def _leaf(path: tuple[str, ...], annotation: Any) -> Field:  # Any: a type expression
    kinds = _kinds(annotation)
    return Field(
        column="_".join(path),
        path=path,
        is_json=bool(kinds & {tuple, dict}) or any(issubclass(kind, BaseModel) for kind in kinds),
        is_number=bool(kinds & {int, float}) and bool not in kinds,
    )


def _kinds(annotation: Any) -> set[type]:  # Any: a type expression
    """The plain classes an annotation allows, without None."""
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


def _text(value: Any) -> str | None:  # Any: JSON of a contract
    if value is None:
        return None
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value, separators=(",", ":"))


LAYERS = Shape(LayerMeasurement)
PARAMETERS = Shape(ParameterMeasurement)
FINDINGS = Shape(Finding, opaque=frozenset({"remedy"}))
