"""What a view requires of its caller, declared at the view. A view without a declaration requires `admin`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask

from service.context import Scope
from service.rates import Rate

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Requirement:
    """What a caller needs.

    Attributes:
        scope: of its key; None for what anyone may read.
        rate: counts the request against this limit.
    """

    scope: Scope | None
    rate: Rate | None = None


UNDECLARED = Requirement("admin")
_PUBLIC = Requirement(None)
# Flask's own views of static files, which take no declaration.
_STATIC = frozenset({"static", "documentation.static"})


def requires(scope: Scope | None, *, rate: Rate | None = None) -> Callable[[View], View]:
    """Declare what a view requires; None lets anyone call it."""

    def decorate(view: View) -> View:
        view.requirement = Requirement(scope, rate)  # type: ignore[attr-defined]  # read back by `requirement_of`
        return view

    return decorate


def requirement_of(app: Flask, endpoint: str) -> Requirement:
    """Return what the view of an endpoint requires."""
    if endpoint in _STATIC:
        return _PUBLIC
    found = getattr(app.view_functions[endpoint], "requirement", UNDECLARED)
    assert isinstance(found, Requirement)
    return found
