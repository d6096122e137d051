"""Multipart bodies, read as they arrive: the file is streamed to the store, and no part is held as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from gradinspect.contracts.problems import FieldError, ProblemError
from service.api.http.bodies import PIECE_BYTES, arriving_bytes

MULTIPART = "multipart/form-data"
MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 8

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Form(Generic[ResultT]):
    """A multipart body: the result of receiving its file, and its other fields."""

    file: ResultT
    fields: dict[str, str]


def receive_form(
    limit: int, receive: Callable[[Iterator[bytes]], ResultT], *, fields: Collection[str] = ()
) -> Form[ResultT]:
    """Read a multipart body, handing the part named `file` to `receive` while it arrives.

    Args:
        limit: most bytes of the whole body.
        receive: takes the file's pieces and reads them to the end.
        fields: names of other allowed parts, before or after the file.

    Raises:
        ProblemError: `bad_request` when it is not multipart, `invalid_request` for wrong parts, else as
            `arriving_bytes`.
    """
    events = _events(limit)
    values: dict[str, str] = {}
    files: list[ResultT] = []
    for event in events:
        if not isinstance(event, File | Field):
            continue
        name = event.name if isinstance(event.name, str) else ""  # werkzeug gives None for a part without a name
        if name == "file" and not files:
            files.append(receive(_part(events)))
        elif name in fields and name not in values:
            values[name] = _text(name, _part(events))
        else:
            raise _wrong_part(name, known={"file", *fields}, seen={*values, *(["file"] if files else [])})
    if not files:
        detail = "the form has no part named 'file'; add one, as in curl -F file=@model.pt"
        raise ProblemError("invalid_request", detail, errors=[FieldError("/file", "is missing")])
    return Form(files[0], values)


def _events(limit: int) -> Generator[Event]:
    boundary = request.mimetype_params.get("boundary", "")
    if not 1 <= len(boundary) <= 200:  # RFC 2046 says 70, and some clients send a few more
        raise ProblemError("bad_request", "the Content-Type names no boundary of 1 to 200 characters")
    decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), max_parts=MAX_PARTS)
    pieces = arriving_bytes(limit)
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, NeedData):
                if len(decoder.buffer) > MAX_FIELD_BYTES + PIECE_BYTES:
                    raise ProblemError("bad_request", "a part's header does not end")
                decoder.receive_data(next(pieces, None))
            else:
                yield event
    except (ValueError, AttributeError) as error:  # werkzeug raises both for a malformed part
        raise ProblemError("bad_request", f"the multipart body cannot be read: {error}") from None
    except RequestEntityTooLarge:
        raise ProblemError("bad_request", f"the form has more than {MAX_PARTS} parts") from None


def _part(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, Data):
            yield event.data
            if not event.more_data:
                return


def _text(name: str, pieces: Iterator[bytes]) -> str:
    value = bytearray()
    for piece in pieces:
        value += piece
        if len(value) > MAX_FIELD_BYTES:
            detail = f"is longer than {MAX_FIELD_BYTES} bytes"
            raise ProblemError(
                "invalid_request", f"the part {name!r} {detail}", errors=[FieldError(f"/{name}", detail)]
            )
    try:
        return value.decode()
    except UnicodeDecodeError:
        detail = "is not UTF-8"
        raise ProblemError(
            "invalid_request", f"the part {name!r} {detail}", errors=[FieldError(f"/{name}", detail)]
        ) from None


def _wrong_part(name: str, *, known: Collection[str], seen: Collection[str]) -> ProblemError:
    shown = name[:64]
    detail = "is given twice" if name in seen else f"is unknown; known are {', '.join(sorted(known))}"
    return ProblemError(
        "invalid_request", f"the part {shown!r} {detail}", errors=[FieldError(f"/{shown.replace('/', '~1')}", detail)]
    )
