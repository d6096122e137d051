"""Query strings as typed models: each parameter is validated once, and every mistake names its parameter.

The API and the pages read a query string into a model; `service.db` takes the model. This module knows no request.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gradinspect.contracts.document import MAX_INTEGER, without_nul
from gradinspect.contracts.problems import FieldError, ProblemError

MAX_CURSOR_CHARACTERS = 1024
MAX_LIMIT = 500
DEFAULT_LIMIT = 50
FILTER_MARK = "x-filter"  # marks number filters, which are too many to list one by one
TIME_FORM = (
    "is a time with its zone, such as 2026-01-31T12:00:00Z or 2026-01-31T12:00:00%2B00:00 (in a URL, + is written %2B)"
)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_LIMIT = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_LONGEST_NAME = 64  # of an unknown parameter, in characters; chosen: longer than every known one

QueryT = TypeVar("QueryT", bound="Query")


def _read_moment(value: object, read: ValidatorFunctionWrapHandler) -> datetime:
    try:
        moment: datetime = read(value)
        if isinstance(value, str) and datetime.fromisoformat(value).tzinfo is None:  # pydantic reads "5" as 1970
            raise ValueError
        return moment.astimezone(UTC)
    except (ValidationError, ValueError, OverflowError):
        raise ValueError(TIME_FORM) from None


def _read_number(value: object) -> int | float:
    """Read a finite number; an integer stays exact."""
    text = str(value)
    if len(text) <= 64 and _NUMBER.fullmatch(text):
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
        if isfinite(number) and (isinstance(number, float) or abs(number) <= MAX_INTEGER):
            return number
    raise ValueError("is a finite number, 1e-7")


def _read_limit(value: object) -> int:
    if _LIMIT.fullmatch(str(value)) and int(str(value)) <= MAX_LIMIT:
        return int(str(value))
    raise ValueError(f"limit is a whole number from 1 to {MAX_LIMIT}")


Moment = Annotated[AwareDatetime, WrapValidator(_read_moment)]
Number = Annotated[int | float, BeforeValidator(_read_number)]
PlainText = Annotated[str, AfterValidator(without_nul)]
Cursor = Annotated[
    str | None,
    Field(max_length=MAX_CURSOR_CHARACTERS, description="`next_cursor` of the page before this one."),
]
Limit = Annotated[
    int,
    Field(ge=1, le=MAX_LIMIT, description=f"Items per page; {DEFAULT_LIMIT} when left out."),
    BeforeValidator(_read_limit),
]


class Query(BaseModel):
    """A query string. Texts are converted to the types of the fields; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    """The parameters of every list."""

    cursor: Cursor = None
    limit: Limit = DEFAULT_LIMIT


def validate_query(model: type[QueryT], values: Mapping[str, object]) -> QueryT:
    """Validate the parameters of a query string.

    Args:
        values: by name; a list of texts where a parameter may be repeated, else one text.

    Raises:
        ProblemError: `invalid_request` with pointers such as `/query/limit`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _problem(error, model) from None


def wrong_query(name: str, detail: str) -> ProblemError:
    """Build the 422 for one wrong query parameter."""
    pointer = f"/query/{name[:_LONGEST_NAME].replace('~', '~0').replace('/', '~1')}"
    sentence = f"the query parameter {name[:_LONGEST_NAME]!r} {detail}"
    return ProblemError("invalid_request", sentence, errors=[FieldError(pointer, detail)])


def unknown_parameter(known: Collection[str]) -> str:
    """Say that a parameter is unknown, and which ones are known."""
    return f"is unknown; known are {', '.join(sorted(known))}" if known else "is unknown; this path takes none"


def is_number_filter(field: FieldInfo) -> bool:
    """Check whether a field is one of the many filters by a number."""
    return isinstance(field.json_schema_extra, dict) and FILTER_MARK in field.json_schema_extra


def _problem(error: ValidationError, model: type[BaseModel]) -> ProblemError:
    errors = []
    for item in error.errors(include_url=False):
        if not item["loc"]:  # of the query as a whole
            errors.append(FieldError("/query", item["msg"].removeprefix("Value error, ")))
            continue
        name = str(item["loc"][0])
        errors += wrong_query(name, _detail(item, name, model)).errors
    detail = f"{errors[0].pointer}: {errors[0].detail}" if len(errors) == 1 else "several query parameters are wrong"
    return ProblemError("invalid_request", detail, errors=errors[:50])


def _detail(item: ErrorDetails, name: str, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return _unknown(name, model)
    if item["type"] == "literal_error":
        return f"is one of {item['ctx']['expected'].replace(chr(39), '').replace(' or ', ', ')}"
    return item["msg"].removeprefix("Value error, ")


def _unknown(name: str, model: type[BaseModel]) -> str:
    field, _, comparison = name.partition("__")
    comparisons = [known.removeprefix(f"{field}__") for known in model.model_fields if known.startswith(f"{field}__")]
    if comparisons:
        return f"has no comparison {comparison[:_LONGEST_NAME]!r}; known are {', '.join(comparisons)}"
    # For a number filter only the plain name is listed, without its comparisons.
    return unknown_parameter(
        [known for known, field in model.model_fields.items() if not is_number_filter(field) or "__" not in known]
    )
