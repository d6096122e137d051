"""Specs in YAML: the part of YAML that JSON has, and the line of each wrong field.

Of the scalars only what JSON knows is read as something else than text: `yes` and `2026-01-01` are texts, `1e-3` is a
number. Anchors and aliases are refused, because a few lines of them unfold to gigabytes, and so are tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any  # Any: JSON

from gradinspect.contracts.problems import FieldError, ProblemError

MAX_BYTES = 2**20
MAX_NODES = 50_000
MAX_DEPTH = 60

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class YamlDocument:
    """A parsed document.

    Attributes:
        value: as JSON would have it.
        lines: line of each value, from 1, by its JSON pointer.
    """

    value: Any
    lines: dict[str, int] = field(default_factory=dict)

    def with_lines(self, error: ProblemError) -> ProblemError:
        """Return the error with the line of each wrong field in front of what is wrong."""
        errors = [FieldError(each.pointer, f"{self._line(each.pointer)}{each.detail}") for each in error.errors]
        return ProblemError(error.code, error.detail, errors=errors)

    def _line(self, pointer: str) -> str:
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]  # of a field that is missing: the object that should have it
        line = self.lines.get(pointer)
        return f"line {line}: " if line is not None else ""


def parse_yaml(content: bytes) -> YamlDocument:
    r"""Parse one YAML document.

    Raises:
        ProblemError: `invalid_spec`, with line and column.

    >>> document = parse_yaml(b"input: {shape: [4]}\nlayers:\n- type: Linear\n  out_features: 3\n")
    >>> document.value
    {'input': {'shape': [4]}, 'layers': [{'type': 'Linear', 'out_features': 3}]}
    >>> document.lines["/layers/0/out_features"]
    4
    """
    import yaml

    if len(content) > MAX_BYTES:
        raise _refusal(f"the file has {len(content)} bytes; at most {MAX_BYTES} are taken")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(f"the file is not UTF-8: byte {error.start} cannot be decoded") from None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _refusal(f"{_position(event.start_mark)}: anchors and aliases are not read; write the part out")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refusal(f"{_position(mark)}: {error.problem or error.context or 'is no YAML'}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _refusal(f"the file is no YAML: {str(error)[:200]}") from None
    if root is None:
        raise _refusal("the file is empty")
    document = YamlDocument(None)
    document.value = _Reader(document.lines).value(root, "", 0)
    return document


class _Reader:
    """Turns the nodes of a document into JSON and notes their lines."""

    def __init__(self, lines: dict[str, int]) -> None:
        self._lines = lines

    def value(self, node: Any, pointer: str, depth: int) -> Any:  # Any: a node of PyYAML, which has no types
        import yaml

        self._lines[pointer] = node.start_mark.line + 1
        if len(self._lines) > MAX_NODES or depth > MAX_DEPTH:
            raise _refusal(f"{_position(node.start_mark)}: the document has too many values, or nests too deeply")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            _refuse_tag(node, "tag:yaml.org,2002:seq")
            return [self.value(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(node.value)]
        _refuse_tag(node, "tag:yaml.org,2002:map")
        result: dict[str, Any] = {}
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal(f"{_position(key_node.start_mark)}: a key is no text")
            key = str(key_node.value)
            if key in result:
                raise _refusal(f"{_position(key_node.start_mark)}: the key {key[:80]!r} is given twice in one object")
            result[key] = self.value(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", depth + 1)
        return result


def _scalar(node: Any) -> bool | int | float | str | None:
    text = str(node.value)
    if node.style in ("'", '"', "|", ">"):
        return text
    if node.tag.startswith("!") or node.tag == "tag:yaml.org,2002:binary":
        raise _refusal(f"{_position(node.start_mark)}: the tag {node.tag[:80]} is not read")
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _refuse_tag(node: Any, usual: str) -> None:
    if node.tag != usual:
        raise _refusal(f"{_position(node.start_mark)}: the tag {node.tag[:80]} is not read")


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "the file"


def _refusal(detail: str) -> ProblemError:
    return ProblemError("invalid_spec", detail)
