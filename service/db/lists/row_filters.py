"""The parameters of lists of rows: every number as a filter and a sort key, some texts by equality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, create_model, field_validator, model_validator
from pydantic.config import JsonValue

from gradinspect.contracts.document import MAX_NAME
from service.db.results.flattening import Shape
from service.query_strings import FILTER_MARK, Number, PageQuery, PlainText

Comparison = Literal["lt", "lte", "gt", "gte", "eq"]
COMPARISONS: tuple[Comparison, ...] = ("lt", "lte", "gt", "gte", "eq")
MAX_FILTERS = 32


class NumberFilter(NamedTuple):
    """A condition on one number: `grad_norm__lt=1e-7`."""

    field: str
    comparison: Comparison
    value: int | float


class RowQuery(PageQuery):
    """The parameters of every list of rows; `row_query` adds those of one kind of row."""

    numbers: ClassVar[frozenset[str]] = frozenset()
    texts: ClassVar[tuple[str, ...]] = ()

    sort: Annotated[
        Annotated[str, Field(max_length=64)] | None,
        Field(description="A number of the rows; `-` before it for the largest first."),
    ] = None

    format: Annotated[Literal["json", "csv"] | None, Field(description="The same as Accept, for links.")] = None

    def number_filters(self) -> Iterator[NumberFilter]:
        """Yield the conditions on numbers, in the order of the fields."""
        for name in type(self).model_fields:
            field, _, comparison = name.partition("__")
            if field in self.numbers and (value := getattr(self, name)) is not None:
                yield NumberFilter(field, comparison or "eq", value)  # type: ignore[arg-type]  # made from COMPARISONS

    def text_filters(self) -> dict[str, str]:
        """Return the texts that rows must have, by field."""
        return {name: value for name in self.texts if (value := getattr(self, name)) is not None}

    @field_validator("sort")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value.removeprefix("-") not in cls.numbers:
            raise ValueError(f"cannot sort by {value.removeprefix('-')!r}; known are {', '.join(sorted(cls.numbers))}")
        return value

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(list(self.number_filters())) > MAX_FILTERS:
            raise ValueError(f"has more than {MAX_FILTERS} filters")
        return self


def row_query(name: str, shape: Shape, texts: Sequence[str]) -> type[RowQuery]:
    """Build the query model of one kind of row.

    Args:
        name: of the class.
        shape: its numbers become filters, alone and with each comparison, and sort keys.
        texts: fields that rows are filtered by with equality.
    """
    mark: dict[str, JsonValue] = {FILTER_MARK: True}
    text = (
        Annotated[Annotated[PlainText, Field(max_length=MAX_NAME)] | None, Field(description="Exactly this text.")],
        None,
    )
    number = (Annotated[Number | None, Field(json_schema_extra=mark)], None)
    fields: dict[str, Any] = dict.fromkeys(texts, text)  # Any: pydantic's definitions of fields
    for column in sorted(shape.numbers):
        fields[column] = number
        fields |= {f"{column}__{comparison}": number for comparison in COMPARISONS}
    made = create_model(name, __base__=RowQuery, __doc__="The parameters of a list of one kind of row.", **fields)
    made.numbers, made.texts = shape.numbers, tuple(texts)
    return made
