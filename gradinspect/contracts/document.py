"""Validation of all documents: strict JSON, then a frozen Pydantic model, with JSON pointers in errors.

Strict means: no duplicate keys, no NaN or Infinity, bounded depth and integers, a bool is never a number, and
unknown fields are refused. Python callers take the same path (`from_python`), so a spec given as a dict in a
notebook is validated exactly like one from HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonValue
from pydantic_core import InitErrorDetails, PydanticCustomError

from gradinspect.contracts.field_errors import MAX_ERRORS, field_errors
from gradinspect.contracts.problems import ProblemError

MAX_JSON_DEPTH = 64  # chosen: the deepest useful spec (nested containers) stays under 40
MAX_INTEGER = 2**63 - 1  # the range of torch sizes and SQL integers
MAX_VALUES = 6_500  # chosen: a spec of 2,000 layers written out; right or wrong, it takes under 0.1 s of CPU

Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
MAX_NAME = 512  # chosen: 80 nested modules of 5 letters each; in UTF-8 it fits a PostgreSQL index (2,704 bytes)
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=4096)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def without_nul(text: str) -> str:
    """Refuse NUL, which some databases cannot store, in texts that are stored unchanged."""
    if "\x00" in text:
        raise ValueError("holds a NUL character (\\u0000); leave it out")
    return text


WITHOUT_NUL: dict[str, JsonValue] = {"pattern": r"^[^\u0000]*$"}  # what `without_nul` checks, for a JSON schema
ModelName = Annotated[
    str, Field(min_length=1, max_length=256, json_schema_extra=WITHOUT_NUL), AfterValidator(without_nul)
]


class Document(BaseModel):
    """A frozen model that refuses unknown fields, silent conversions and non-finite numbers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=False,
        ser_json_inf_nan="null",
        protected_namespaces=(),
    )


DocumentT = TypeVar("DocumentT", bound=BaseModel)


def from_json(model: type[DocumentT], text: bytes | str, *, code: str = "invalid_request") -> DocumentT:
    """Parse `text` strictly into `model`.

    Raises:
        ProblemError: `malformed_json` when it is not strict JSON, else `code` with one error per wrong field, 50 at
            most.
    """
    value = parse_strict_json(text)
    return _validate(model, value, code)


def from_request(model: type[DocumentT], text: bytes) -> DocumentT:
    """Parse the body of a request strictly into `model`; the work is bounded whatever the body holds.

    Raises:
        ProblemError: `too_large` when it holds more than `MAX_VALUES` values, else as `from_json`.
    """
    refuse_many_values(text)
    return from_json(model, text)


def refuse_many_values(text: bytes) -> None:
    """Refuse a JSON text of more than `MAX_VALUES` values before it is parsed.

    The values are bounded by the commas and opening brackets outside strings: in an array or object, each value follows
    one of them.

    Raises:
        ProblemError: `too_large`; `malformed_json` where it begins too deeply nested.
    """
    if _separators(text) < MAX_VALUES:  # all texts but a few
        return
    outside = b"".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    if _separators(outside) >= MAX_VALUES:
        _refuse_deep_brackets(outside[:MAX_VALUES])
        raise ProblemError("too_large", f"the document holds more than {MAX_VALUES} values")


def from_python(model: type[DocumentT], value: object, *, code: str = "invalid_request") -> DocumentT:
    """Validate a Python value (dicts, lists, tuples, numbers) as if it had arrived as JSON."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProblemError("malformed_json", f"the value cannot be written as JSON: {error}") from None
    return _validate(model, parse_strict_json(text), code)


def parse_strict_json(text: bytes | str) -> Any:  # Any: JSON's own type, narrowed by the model that validates it
    """Parse JSON and refuse duplicate keys, NaN, Infinity, over-deep nesting and integers beyond 64 bits.

    Raises:
        ProblemError: `malformed_json`, with the position or the key at fault.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ProblemError("malformed_json", f"the text is not UTF-8: byte {error.start} cannot be decoded") from None
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
        )
    except json.JSONDecodeError as error:
        raise ProblemError("malformed_json", f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ProblemError("malformed_json", f"nested deeper than {MAX_JSON_DEPTH} levels") from None
    _refuse_deep(value)
    _refuse_lone_surrogates(decoded, value)
    return value


def _validate(model: type[DocumentT], value: object, code: str) -> DocumentT:
    try:
        # JSON mode keeps strictness and still reads arrays into tuples and strings into enumerations.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        errors = field_errors(error, value, model)
        raise ProblemError(code, _headline(len(errors), error.error_count()), errors=errors) from None


def located(title: str, location: Iterable[int | str], detail: str) -> ValidationError:
    """Make the error of a validator that knows which nested field is wrong."""
    error = PydanticCustomError("misfit", "{detail}", {"detail": detail})
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=error, loc=tuple(location), input=None)])


def number_or_list(value: object) -> str:
    """Return the type of a field that takes one number or several, so that a mistake gives one error."""
    return "list" if isinstance(value, list | tuple) else "number"


def _refuse_deep_brackets(outside: bytes) -> None:
    depth = 0
    for letter in outside:
        depth += (letter in b"[{") - (letter in b"]}")
        if depth > MAX_JSON_DEPTH:
            raise ProblemError("malformed_json", f"nested deeper than {MAX_JSON_DEPTH} levels")


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _headline(listed: int, count: int) -> str:
    if listed == MAX_ERRORS and count > MAX_ERRORS:
        return f"{count} fields are wrong; the first {MAX_ERRORS} are listed"
    return "one field is wrong" if listed == 1 else f"{listed} fields are wrong"


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # set.add is None, so falsy
        raise ProblemError("malformed_json", f"the key {twice[:80]!r} is given twice in one object")
    return result


def _refuse_constant(literal: str) -> float:
    raise ProblemError("malformed_json", f"{literal} is not a JSON number; leave the field out or send null")


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
        raise ProblemError("malformed_json", f"the integer {digits[:24]}… does not fit in 64 bits")
    return int(digits)


def _refuse_lone_surrogates(text: str, value: object) -> None:
    r"""Refuse lone surrogates such as `\ud800`, which UTF-8 cannot encode."""
    if "\\u" not in text and "\\U" not in text:
        return  # UTF-8 has none, so only an escape can contain one
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ProblemError("malformed_json", f"\\u{ord(half):04x} is half a character; escape both halves") from None


def _refuse_deep(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise ProblemError("malformed_json", f"nested deeper than {MAX_JSON_DEPTH} levels")
