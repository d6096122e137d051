"""The lines of a spec's text where its layers begin, for tools that point into files."""

from __future__ import annotations

from bisect import bisect_right
from json import JSONDecoder

from gradinspect.contracts.document import from_json
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.contracts.spec.spec_error import Location

_DECODER = JSONDecoder()
_WHITESPACE = " \t\r\n"


def layer_lines(text: str) -> dict[str, int]:
    r"""Map the path of each layer call to the line (from 1) where the layer begins.

    Args:
        text: a spec as JSON. A preset's text contains no layers, so its map is empty.

    Raises:
        ProblemError: it is not a spec.

    >>> layer_lines('{"input": {"shape": [4]},\n "layers": [{"type": "ReLU"},\n  {"type": "Tanh"}]}')
    {'0': 2, '1': 3}
    """
    spec = from_json(ModelSpec, text.encode(), code="invalid_spec")
    offsets: dict[Location, int] = {}
    _record_offsets(text, 0, (), offsets)
    line_ends = [offset for offset, letter in enumerate(text) if letter == "\n"]
    return {
        call.path: bisect_right(line_ends, offsets[call.location]) + 1
        for call in spec.plan.calls()
        if isinstance(call, Call) and call.location in offsets
    }


def _record_offsets(text: str, start: int, location: Location, offsets: dict[Location, int]) -> int:
    """Record where each value inside the value at `start` begins; return where that value ends."""
    start = offsets[location] = _skip(text, start)
    if text[start] not in "{[":
        return _DECODER.raw_decode(text, start)[1]
    is_object, index, at = text[start] == "{", 0, _skip(text, start + 1)
    while text[at] not in "}]":
        key: str | int = index
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at) + 1  # the colon
        at = _skip(text, _record_offsets(text, at, (*location, key), offsets))
        at = _skip(text, at + 1) if text[at] == "," else at
        index += 1
    return at + 1


def _skip(text: str, at: int) -> int:
    while text[at] in _WHITESPACE:
        at += 1
    return at
