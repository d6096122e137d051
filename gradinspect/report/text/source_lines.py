"""Python source broken into lines that fit a terminal and still run when they are copied."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Sequence

CONTINUED = 8  # columns of further indentation


def fitted(source: str, width: int) -> list[str]:
    """Break long lines after commas inside brackets, and move comments above their lines.

    Args:
        source: Python; one that cannot be read is left as it is.
        width: columns. A line without a comma inside brackets may be longer.

    >>> fitted("call(first, second)  # why", 18)
    ['# why', 'call(first,', '        second)']
    """
    lines = source.rstrip("\n").split("\n")
    try:
        breaks, comments = _positions(source)
    except (tokenize.TokenError, SyntaxError):
        return lines
    result: list[str] = []
    for number, line in enumerate(lines, start=1):
        if len(line) <= width:
            result.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        comment = comments.get(number)
        if comment:  # 0 where the whole line is a comment
            result.append(indent + line[comment:])
            line = line[:comment].rstrip()
        result += _broken(line, breaks.get(number, ()), width, indent + " " * CONTINUED)
    return result


def _positions(source: str) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Find, by line, the columns after commas inside brackets, and the columns where comments begin."""
    breaks: dict[int, list[int]] = {}
    comments: dict[int, int] = {}
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            comments[row] = column if token.line[:column].strip() else 0
        elif token.string in ("(", "[", "{"):
            depth += 1
        elif token.string in (")", "]", "}"):
            depth -= 1
        elif token.string == "," and depth:
            breaks.setdefault(row, []).append(column + 1)
    return breaks, comments


def _broken(line: str, breaks: Sequence[int], width: int, indent: str) -> list[str]:
    pieces: list[str] = []
    start, rest = 0, line
    while len(rest) > width:
        ends = [end for end in breaks if start < end < len(line.rstrip())]
        if not ends:
            break
        # The last break that fits; where none does, the first.
        end = max((end for end in ends if end - start <= width - (len(rest) - len(line[start:]))), default=ends[0])
        pieces.append(rest[: len(rest) - len(line[end:])])
        start, rest = end, indent + line[end:].lstrip()
    return [*pieces, rest]
