"""Text that both databases can hold."""

from __future__ import annotations

from sqlalchemy import Dialect, Text
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeDecorator

from gradinspect.contracts.problems import ProblemError


class NulError(ProblemError, DontWrapMixin):
    """A caller's text contains a NUL character, which PostgreSQL cannot store."""

    def __init__(self) -> None:
        super().__init__("invalid_request", "a text holds a NUL character (\\u0000); leave it out")


class PlainText(TypeDecorator[str]):
    """Text without NUL, which is refused here so that SQLite and PostgreSQL accept the same texts."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Dialect) -> str | None:
        if value is not None and "\x00" in value:
            raise NulError
        return value


def storable(text: str) -> str:
    """Return the text with NUL replaced: for text that a model wrote, which no caller can correct."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text
