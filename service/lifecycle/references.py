"""Things that a request names by their id: one that is not there is a wrong field, for the path itself was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gradinspect.contracts.problems import FieldError, ProblemError


@contextmanager
def named_at(place: str) -> Iterator[None]:
    """Say which field of the request names what the block does not find.

    Args:
        place: the field's JSON pointer.

    Raises:
        ProblemError: `invalid_request` in place of `not_found`; every other problem as the block raises it.
    """
    try:
        yield
    except ProblemError as problem:
        if problem.code != "not_found":
            raise
        raise ProblemError("invalid_request", problem.detail, errors=[FieldError(place, problem.detail)]) from None
