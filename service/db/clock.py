"""The database's time, in UTC: clocks of machines differ, so all times come from the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Dialect, Double, Text, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f"  # strftime's %f is seconds with milliseconds


class UtcTime(TypeDecorator[datetime]):
    """A point in time: `timestamptz` on PostgreSQL; on SQLite text with milliseconds, which sorts in order of time."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # Any: as SQLAlchemy declares it
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # Any: what the driver takes
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]

    def process_result_value(self, value: Any, _: Dialect) -> datetime | None:  # Any: what the driver gives
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value + "+00:00")


class now(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function it is
    """The database's time: when this transaction began (PostgreSQL), when this statement ran (SQLite)."""

    type = UtcTime()
    inherit_cache = True


class _now_plus(FunctionElement[datetime]):  # noqa: N801
    type = UtcTime()
    inherit_cache = True


class seconds_between(FunctionElement[float]):  # noqa: N801
    """Seconds between two times of one row; null where one of them is."""

    type = Double()
    inherit_cache = True


def now_plus(seconds: float | ColumnElement[Any]) -> ColumnElement[datetime]:  # Any: any numeric expression
    """Return the database's time plus `seconds`, which may be negative."""
    return _now_plus(literal(float(seconds)) if isinstance(seconds, int | float) else seconds)


@compiles(now, "postgresql")
def _now_postgresql(*_: object, **__: object) -> str:
    return "now()"


@compiles(now, "sqlite")
def _now_sqlite(*_: object, **__: object) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now')"


@compiles(_now_plus, "postgresql")
def _now_plus_postgresql(element: _now_plus, compiler: SQLCompiler, **options: Any) -> str:  # Any: passed through
    seconds = compiler.process(element.clauses, **options)
    return f"(now() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(_now_plus, "sqlite")
def _now_plus_sqlite(element: _now_plus, compiler: SQLCompiler, **options: Any) -> str:  # Any: passed through
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('{_SQLITE_FORMAT}', 'now', printf('%+.3f seconds', {seconds}))"


@compiles(seconds_between, "postgresql")
def _between_postgresql(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:  # Any: passed through
    first, last = (compiler.process(moment, **options) for moment in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM {last} - {first}) AS double precision)"


@compiles(seconds_between, "sqlite")
def _between_sqlite(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:  # Any: passed through
    first, last = (compiler.process(moment, **options) for moment in element.clauses)
    return f"((julianday({last}) - julianday({first})) * 86400.0)"
