"""Values of a JSON document with their positions, so that each refusal names the place.

Nothing is converted: a bool is no number, a number is no text, and a field that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gradinspect.contracts.document import MAX_INTEGER, parse_strict_json
from gradinspect.contracts.problems import ProblemError
from gradinspect.intake.archive import Archive, refusal

MAX_TEXT = 4096
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}  # as torch.export writes them


@dataclass(frozen=True, slots=True)
class JsonField:
    """One value of a document.

    Attributes:
        value: as it was parsed.
        file: path of the document in the archive.
        pointer: RFC 6901 pointer of the value.
    """

    value: Any  # Any: JSON, checked by the methods
    file: str
    pointer: str = ""

    def refuse(self, detail: str, *, code: str = "invalid_model") -> ProblemError:
        """Return the error of this value; `detail` follows the place, as in "is no list"."""
        return ProblemError(code, f"{self.file}, {self.pointer or '/'}: {detail}")

    def fields(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, JsonField]:
        """Return the fields of an object that has all of `required` and nothing else but `optional`."""
        known = self.members()
        for name in required:
            if name not in known:
                raise self.refuse(f"has no field {name!r}")
        for name in known:
            if name not in required and name not in optional:
                raise self.refuse(
                    f"has a field {name[:40]!r} that is not known; export the model with the torch that this service "
                    "runs, which /readyz names"
                )
        return known

    def members(self, most: int = 200_000) -> dict[str, JsonField]:
        """Return the members of an object with any keys."""
        if not isinstance(self.value, dict):
            raise self.refuse("is no object")
        if len(self.value) > most:
            raise self.refuse(f"has {len(self.value)} members; at most {most} are taken")
        return {name: self._child(_escaped(name), value) for name, value in self.value.items()}

    def items(self, most: int = 200_000) -> list[JsonField]:
        """Return the elements of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("is no list")
        if len(self.value) > most:
            raise self.refuse(f"has {len(self.value)} elements; at most {most} are taken")
        return [self._child(str(index), value) for index, value in enumerate(self.value)]

    def variant(self) -> tuple[str, JsonField]:
        """Return the one field of a tagged union, and its name."""
        if not isinstance(self.value, dict) or len(self.value) != 1:
            raise self.refuse("is no object with one field")
        return next(iter(self.members().items()))

    def text(self, most: int = MAX_TEXT) -> str:
        """Return a text."""
        if not isinstance(self.value, str):
            raise self.refuse("is no text")
        if len(self.value) > most:
            raise self.refuse(f"has {len(self.value)} characters; at most {most} are taken")
        return self.value

    def name(self, most: int = 512) -> str:
        """Return a text that is printable and not empty."""
        text = self.text(most)
        if not text or not text.isprintable():
            raise self.refuse("is no name")
        return text

    def integer(self, low: int = -MAX_INTEGER, high: int = MAX_INTEGER) -> int:
        """Return an integer within bounds."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.refuse("is no integer")
        if not low <= self.value <= high:
            raise self.refuse(f"is {self.value}; it has to be from {low} to {high}")
        return self.value

    def boolean(self) -> bool:
        """Return a truth value."""
        if not isinstance(self.value, bool):
            raise self.refuse("is neither true nor false")
        return self.value

    def number(self) -> float:
        """Return a floating-point number; torch.export writes infinities as texts."""
        if isinstance(self.value, str) and self.value in _FLOATS:
            return _FLOATS[self.value]
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.refuse("is no number")
        return float(self.value)

    def _child(self, step: str, value: object) -> JsonField:
        return JsonField(value, self.file, f"{self.pointer}/{step}")


def read_json(archive: Archive, path: str, *, limit: int, most_signs: int) -> JsonField:
    """Read a JSON document of an archive.

    Args:
        archive: the file.
        path: of the document.
        limit: bytes.
        most_signs: commas and brackets, counted before the document is parsed: each may become an object.

    Raises:
        ProblemError: `invalid_model`, when it is missing, too large, or not strict JSON.
    """
    raw = archive.read(path, limit=limit)
    return parse_field(raw, path, most_signs=most_signs)


def parse_field(raw: bytes, path: str, *, most_signs: int) -> JsonField:
    """Parse strict JSON; arguments as in `read_json`."""
    signs = sum(raw.count(sign) for sign in (b",", b"[", b"{"))
    if signs > most_signs:
        raise refusal(f"{path} holds {signs} commas and brackets; at most {most_signs} are taken")
    try:
        return JsonField(parse_strict_json(raw), path)
    except ProblemError as problem:
        raise refusal(f"{path} is not strict JSON: {problem.detail}") from None


def _escaped(name: str) -> str:
    return name[:80].replace("~", "~0").replace("/", "~1")
