"""The orders in which result rows can be read, each with a key to resume from and a supporting index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import NoneType
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, literal, tuple_
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from service.db.lists.cursors import Key

Columns = ReadOnlyColumnCollection[str, Any]  # Any: columns of many types
Query = Select[Any]  # Any: rows are read by column name


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:  # Any: an integer or a float
    """Return an expression with the column's value that uses no index.

    Within one inspection the primary key finds the rows; an index over all inspections would read many other rows.
    """
    return column + 0


class Order(ABC):
    """One order. `kinds` are the types that its keys may have."""

    kinds: Sequence[tuple[type, ...]]

    @abstractmethod
    def keys(self, row: RowMapping) -> list[Key]:
        """Return the sort keys of a row."""

    @abstractmethod
    def fetch(self, session: Session, query: Query, after: Sequence[Key] | None, count: int) -> Sequence[RowMapping]:
        """Return the first rows of the query in this order, from its beginning or after a row with these keys."""


class ByPosition(Order):
    """The report's own order, within one inspection."""

    kinds = ((int,),)

    def __init__(self, table: Columns) -> None:
        self._table = table

    def keys(self, row: RowMapping) -> list[Key]:
        return [row["position"]]

    def fetch(self, session: Session, query: Query, after: Sequence[Key] | None, count: int) -> Sequence[RowMapping]:
        if after is not None:
            query = query.where(self._table.position > after[0])
        return _rows(session, query.order_by(self._table.position).limit(count))


class NewestFirst(Order):
    """Inspection after inspection, newest first, and backwards within each, so that one index gives the whole order."""

    kinds = ((str,), (int,))

    def __init__(self, table: Columns) -> None:
        self._table = table

    def keys(self, row: RowMapping) -> list[Key]:
        return [row["inspection_id"], row["position"]]

    def fetch(self, session: Session, query: Query, after: Sequence[Key] | None, count: int) -> Sequence[RowMapping]:
        table = self._table
        if after is not None:
            row, end = tuple_(table.inspection_id, table.position), tuple_(*(literal(key) for key in after))
            query = query.where(row < end)
        return _rows(session, query.order_by(table.inspection_id.desc(), table.position.desc()).limit(count))


class ByNumber(Order):
    """By one field; rows without a value come last in both directions.

    Databases place nulls differently in an index, so rows with and without a value are read separately.
    """

    kinds = ((float, int, NoneType), (str,), (int,))

    def __init__(
        self, table: Columns, field: str, *, is_descending: bool, is_one_inspection: bool, may_be_null: bool
    ) -> None:
        self._table = table
        self._field = field
        self._is_descending = is_descending
        self._may_be_null = may_be_null
        self._value = unindexed(table[field]) if is_one_inspection else table[field]

    def keys(self, row: RowMapping) -> list[Key]:
        return [row[self._field], row["inspection_id"], row["position"]]

    def fetch(self, session: Session, query: Query, after: Sequence[Key] | None, count: int) -> Sequence[RowMapping]:
        found: list[RowMapping] = []
        if after is None or after[0] is not None:
            found += self._with_value(session, query, after, count)
            after = None
        if self._may_be_null and len(found) < count:
            found += self._without_value(session, query, after, count - len(found))
        return found

    def _with_value(
        self, session: Session, query: Query, after: Sequence[Key] | None, count: int
    ) -> Sequence[RowMapping]:
        order = (self._value, self._table.inspection_id, self._table.position)
        query = query.where(self._value.is_not(None))
        if after is not None:
            row, end = tuple_(*order), tuple_(*(literal(key) for key in after))
            query = query.where(row < end if self._is_descending else row > end)
        directed = [column.desc() if self._is_descending else column for column in order]
        return _rows(session, query.order_by(*directed).limit(count))

    def _without_value(
        self, session: Session, query: Query, after: Sequence[Key] | None, count: int
    ) -> Sequence[RowMapping]:
        order = (self._table.inspection_id, self._table.position)
        query = query.where(self._value.is_(None))
        if after is not None:
            query = query.where(tuple_(*order) > tuple_(*(literal(key) for key in after[1:])))
        return _rows(session, query.order_by(*order).limit(count))


def _rows(session: Session, query: Query) -> Sequence[RowMapping]:
    return session.execute(query).mappings().all()
