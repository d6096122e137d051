"""JSON schemas in words, for the documentation page: `integer ≥ 1`, `array of Finding`, `"train" or "eval"`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from service.api.http.operations import Schema

MAX_CHOICES = 8  # the 130 layer types are listed on their own; a type column has no room for them


@dataclass(frozen=True)
class Word:
    """A piece of a type's description; `target` is the schema that it links to."""

    text: str
    target: str | None = None


@dataclass(frozen=True)
class Row:
    """One field of a schema, or one parameter."""

    name: str
    words: tuple[Word, ...]
    required: bool
    description: str


def rows_of(schema: Schema) -> list[Row]:
    """Return the fields of an object schema."""
    required = schema.get("required", [])
    return [
        Row(name, tuple(words_of(field)), name in required, str(field.get("description", "")))
        for name, field in schema.get("properties", {}).items()
    ]


def words_of(schema: Schema) -> Iterator[Word]:
    """Yield the type of a value, in words."""
    kinds = schema.get("type", "any")
    if not isinstance(kinds, list):
        yield from _words(schema, kinds)
        return
    yield from _words({key: value for key, value in schema.items() if key != "type"}, kinds[0])
    if None not in schema.get("enum", []):
        yield Word(" or null")


def _words(schema: Schema, kind: str) -> Iterator[Word]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield Word(name, name)
    elif choices := schema.get("anyOf") or schema.get("oneOf"):
        yield from _choices(choices)
    elif "const" in schema or "enum" in schema:
        yield Word(" or ".join(_literal(value) for value in schema.get("enum", [schema.get("const")])))
    elif kind == "array":
        yield from _array(schema)
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        yield Word("object of ")
        yield from words_of(schema["additionalProperties"])
    else:
        yield Word(" ".join([kind, *_bounds(schema)]))


def _choices(choices: list[Schema]) -> Iterator[Word]:
    if len(choices) > MAX_CHOICES:
        yield Word(f"one of {len(choices)} kinds, by `type`: see the schemas below")
        return
    yield from words_of(choices[0])
    for _, choice in pairwise(choices):
        yield Word(" or ")
        yield from words_of(choice)


def _array(schema: Schema) -> Iterator[Word]:
    if "prefixItems" in schema:
        yield Word("[")
        for index, item in enumerate(schema["prefixItems"]):
            if index:
                yield Word(", ")
            yield from words_of(item)
        yield Word("]")
        return
    yield Word("array of ")
    yield from words_of(schema.get("items", {}))


def _bounds(schema: Schema) -> Iterator[str]:
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in schema:
            yield f"{sign} {schema[key]:g}" if abs(schema[key]) < 1e6 else f"{sign} {schema[key]}"
    if "pattern" in schema:
        yield f"matching {schema['pattern']}"
    if "format" in schema:
        yield f"({schema['format']})"
    if "default" in schema and schema["default"] is not None:
        yield f"= {_literal(schema['default'])}"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
