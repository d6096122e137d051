"""JSON schemas as pydantic writes them, made smaller: no titles, short nulls, and repeated parts named once."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gradinspect.contracts.document import MAX_INTEGER

Json = Any  # JSON of any type; a schema is walked as it is

_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "default")
_NOTES = ("default", "description")
_PLAIN = re.compile(r"`torch\.nn\.\w+`\.")  # a description that only repeats the type
REFERENCE = "#/components/schemas/{name}"


def compact(schema: Json) -> Json:
    """Return a schema without redundant parts.

    Titles repeat the names of fields. `anyOf: [X, null]` is `type: [X, "null"]` in JSON Schema 2020-12. A default of
    null only repeats that the field may be absent. The alternatives of a union differ in constants, so it needs no
    discriminator.
    """
    if isinstance(schema, list):
        return [compact(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    smaller = {
        key: {name: compact(field) for name, field in value.items()} if key == "properties" else compact(value)
        for key, value in schema.items()
        if not _is_redundant(key, value)
    }
    prefix = smaller.get("prefixItems", [])
    if prefix and all(item == prefix[0] for item in prefix):  # a tuple of equal types is an array of fixed length
        smaller["items"] = smaller.pop("prefixItems")[0]
    return _nullable(smaller)


def merge_variants(schemas: dict[str, Json], names: Collection[str]) -> dict[str, str]:
    """Merge schemas that differ only in their `type`, with the types as an enumeration.

    Args:
        schemas: the components, changed in place.
        names: the schemas to compare; each has a constant `type`.

    Returns:
        The new name of each schema that was merged.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        fields = {key: value for key, value in schemas[name]["properties"].items() if key != "type"}
        rest = {key: value for key, value in schemas[name].items() if key not in ("properties", "description")}
        alike[json.dumps([fields, rest], sort_keys=True)].append(name)
    renamed: dict[str, str] = {}
    for group in alike.values():
        if len(group) == 1:
            continue
        merged = schemas[group[0]]
        types = [schemas[name]["properties"]["type"]["const"] for name in group]
        stem = _common_start(group)
        name = stem if len(stem) > 2 and stem not in schemas else group[0]
        texts = [schemas[old].get("description", "") for old in group]
        merged["description"] = " ".join(
            ["Layers of `torch.nn`.", *(text for text in texts if not _PLAIN.fullmatch(text))]
        )
        merged["properties"] = {"type": {"enum": types, "type": "string"}} | {
            key: value for key, value in merged["properties"].items() if key != "type"
        }
        for old in group:
            renamed[old] = name
            del schemas[old]
        schemas[name] = merged
    return renamed


def rename(node: Json, renamed: Mapping[str, str]) -> None:
    """Update references to the new names, each at most once in a union. Changes the document."""
    targets = {REFERENCE.format(name=old): REFERENCE.format(name=new) for old, new in renamed.items()}
    for holder, key in _objects(node):
        part = holder[key]
        if part.get("$ref") in targets:
            part["$ref"] = targets[part["$ref"]]
    for holder, key in _objects(node):
        alternatives = holder[key].get("oneOf")
        if isinstance(alternatives, list):
            holder[key]["oneOf"] = list({json.dumps(one): one for one in alternatives}.values())


def flatten_union(union: Json) -> None:
    """Write a union of unions as one union. Changes the schema."""
    union["oneOf"] = [part for one in union["oneOf"] for part in one.get("oneOf", [one])]


def share(document: Json, named: Mapping[str, tuple[str, ...]]) -> None:
    """Give repeated parts a name, and refer to it wherever an equal part is. Changes the document.

    Parts that differ only in `default` or `description` count as equal, because both are allowed next to a reference.

    Args:
        document: with `components.schemas`.
        named: for each new name the path to one example inside `components.schemas`.
    """
    schemas = document["components"]["schemas"]
    for name, (component, *path) in named.items():
        part = schemas[component]
        for key in path:
            part = part[key]
        text, example = _without_notes(part), dict(part)
        for holder, key in list(_objects(document)):
            if _without_notes(holder[key]) == text:
                notes = {note: holder[key][note] for note in _NOTES if holder[key].get(note) != example.get(note)}
                holder[key] = {"$ref": REFERENCE.format(name=name)} | notes
        schemas[name] = example


def inherit(schemas: dict[str, Json], names: Collection[str], base: str, fields: Collection[str]) -> None:
    """Move fields that all these schemas have into a base, which each of them then includes. Changes the schemas.

    A closed schema with a base is closed by `unevaluatedProperties`, which counts the fields of the base.
    """
    first = schemas[next(iter(names))]["properties"]
    schemas[base] = {"type": "object", "properties": {field: first[field] for field in fields}}
    for name in names:
        schema = schemas[name]
        if not all(schema["properties"].get(field) == first[field] for field in fields):
            continue
        own = {key: value for key, value in schema["properties"].items() if key not in fields}
        rest = {key: value for key, value in schema.items() if key not in ("properties", "additionalProperties")}
        schemas[name] = {"allOf": [{"$ref": REFERENCE.format(name=base)}], **rest, "properties": own}
        schemas[name]["unevaluatedProperties"] = False


def open_up(schemas: dict[str, Json], names: Collection[str]) -> None:
    """Remove everything but types from the schemas of responses. Changes the schemas.

    Responses may get new fields, which readers must ignore, and the service limits their sizes.
    """
    for name in names:
        if schemas[name].get("additionalProperties") is False:
            del schemas[name]["additionalProperties"]
        for field in schemas[name].get("properties", {}).values():
            _drop_bounds(field)


def extend(schemas: dict[str, Json], name: str, base: str) -> None:
    """Describe a schema as its base and the fields that it adds."""
    whole, fields = schemas[name], schemas[base]["properties"]
    own = {key: value for key, value in whole["properties"].items() if fields.get(key) != value}
    schemas[name] = {
        "allOf": [{"$ref": REFERENCE.format(name=base)}],
        "type": "object",
        "description": whole["description"],
        "properties": own,
        "required": [key for key in whole.get("required", []) if key in own],
    }


def reachable(node: Json, schemas: Mapping[str, Json]) -> set[str]:
    """Return the names of all schemas that a document refers to, directly or through others."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        for holder, key in _objects([waiting.pop()]):
            name = str(holder[key].get("$ref", "")).rpartition("/")[2]
            if name in schemas and name not in found:
                found.add(name)
                waiting.append(schemas[name])
    return found


def _drop_bounds(schema: Json) -> None:
    for bound in _BOUNDS:
        schema.pop(bound, None)
    parts = [
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("anyOf", []),
        *schema.get("oneOf", []),
    ]
    for part in parts:
        if isinstance(part, dict):
            _drop_bounds(part)


def _common_start(names: Sequence[str]) -> str:
    start = min(names, key=len)
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    return start


def _without_notes(schema: Json) -> str:
    return json.dumps({key: value for key, value in schema.items() if key not in _NOTES}, sort_keys=True)


def _objects(node: Json) -> Iterator[tuple[Json, Json]]:
    """Yield every object inside a document as its holder and its key, outer ones first."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        if isinstance(value, dict):
            yield node, key
        yield from _objects(node[key])


def _is_redundant(key: str, value: Json) -> bool:
    if key == "title":
        return isinstance(value, str)
    return key == "discriminator" or (key == "default" and value is None) or (key, value) == ("maximum", MAX_INTEGER)


def _nullable(schema: dict[str, Json]) -> dict[str, Json]:
    choices = schema.get("anyOf", [])
    if len(choices) != 2 or choices[1] != {"type": "null"} or not isinstance(choices[0].get("type"), str):
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    only = dict(choices[0])
    if "const" in only:
        only["enum"] = [only.pop("const")]
    if "enum" in only:
        only["enum"] = [*only["enum"], None]
    return only | {"type": [only["type"], "null"]} | rest
