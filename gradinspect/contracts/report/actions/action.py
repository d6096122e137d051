"""What every action has, and how names and numbers are written into source code.

Names of layers and parameters are untrusted text. They appear in code only as string literals in ASCII.
"""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from gradinspect.contracts.document import Document, Finite, Name

WIDTH = 76  # letters a line, so that code fits a terminal of 80
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)]
Factors = Annotated[dict[Name, Finite], Field(min_length=1, max_length=4096)]


class Action(Document):
    """Common base of the actions; the fields are the arguments of a change.

    Attributes:
        name: `action` of the change.
        is_in_place: whether it changes weights, rates or the optimizer alone, so that it works for TorchScript.
    """

    name: ClassVar[str]
    is_in_place: ClassVar[bool] = False

    @abstractmethod
    def sentence(self) -> str:
        """Return the change in one sentence."""

    def source(self) -> str:
        """Return the lines that change `model`; they raise LookupError where they would change nothing."""
        return ""

    def prepare_source(self) -> str:
        """Return the lines that change `inputs` or `targets` of a batch."""
        return ""

    def optimizer_source(self) -> str:
        """Return the lines that change `optimizer`."""
        return ""


def literal(text: str) -> str:
    r"""Write a text as one string literal in ASCII.

    >>> literal("fc1"), literal('a"\u202e')
    ('"fc1"', '\'a"\\u202e\'')
    """
    written = ascii(text)
    return written if '"' in text or "\\'" in written else f'"{written[1:-1]}"'


def literals(texts: Iterable[str], *, indent: str = "    ") -> str:
    """Write texts as the items of a list, one a line; a text longer than a line is cut into adjacent literals."""
    lines: list[str] = []
    for text in texts:
        parts = _parts(text, WIDTH - len(indent) - 8)
        if len(parts) == 1:
            lines.append(f"{indent}{parts[0]},\n")
        else:
            inner = "".join(f"{indent}    {part}\n" for part in parts)
            lines.append(f"{indent}(\n{inner}{indent}),\n")
    return "".join(lines)


def pairs(factors: Mapping[str, float], *, indent: str = "    ") -> str:
    """Write names and numbers as the items of a dict, one pair a line."""
    lines: list[str] = []
    for text, number in factors.items():
        parts = _parts(text, WIDTH - len(indent) - 28)
        if len(parts) == 1:
            lines.append(f"{indent}{parts[0]}: {number!r},\n")
        else:
            inner = "".join(f"{indent}    {part}\n" for part in parts)
            lines.append(f"{indent}(\n{inner}{indent}): {number!r},\n")
    return "".join(lines)


def numbers(name: str, values: tuple[float, ...]) -> str:
    """Write an assignment of one number, or of a list of numbers, as a tensor of the batch's type."""
    if len(values) == 1:
        return f"{name} = {values[0]!r}\n"
    rows = textwrap.fill(", ".join(map(repr, values)), WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{name} = torch.tensor([\n{rows}\n])\n"


def comment(text: str) -> str:
    """Write a sentence as comment lines in ASCII."""
    plain = ascii(text)[1:-1].replace("\\'", "'")
    return textwrap.fill(plain, WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"


def cut(text: str, *, most: int = 60) -> str:
    """Shorten a text for a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: tuple[str, ...], *, most: int = 3) -> str:
    """Write the first names in backquotes, and how many more; contracts cannot import `gradinspect.wording`."""
    shown = ", ".join(f"`{cut(name, most=40)}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _parts(text: str, width: int) -> list[str]:
    """Cut a text into literals of at most `width` letters; escapes take up to ten."""
    whole = literal(text)
    if len(whole) <= width:
        return [whole]
    parts, start = [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and len(literal(text[start : end + 1])) <= width:
            end += 1
        parts.append(literal(text[start:end]))
        start = end
    return parts
