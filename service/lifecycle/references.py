"""Ids in a request's fields: an unknown one is a wrong field, not a 404, because the path itself exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gradinspect.contracts.problems import FieldError, ProblemError


@contextmanager
def named_at(pointer: str) -> Iterator[None]:
    """Turn a `not_found` of the block into the error of the field that holds the id.

    Args:
        pointer: JSON pointer of the field.

    Raises:
        ProblemError: `invalid_request` instead of `not_found`; other problems pass unchanged.
    """
    try:
        yield
    except ProblemError as problem:
        if problem.code != "not_found":
            raise
        raise ProblemError("invalid_request", problem.detail, errors=[FieldError(pointer, problem.detail)]) from None
