"""The module and the source line that an operation was called from.

Eager models: from Python's own frames. Exported programs: from the node that runs. TorchScript: an error raised at the
operation makes the interpreter write the source ranges of its calls, which are then looked up in the graphs of the
modules.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import nn

from gradinspect.contracts.exported.program import Place
from gradinspect.contracts.report.operations import SourceLine
from gradinspect.engine.network.exported.interpreter import place_of

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = str(Path(__file__).parents[2]) + os.sep
_MOST_FRAMES = 200
_MOST_PATHS = 64  # chosen: of equal candidates; a loop over more modules than this stays ambiguous
_FRAME = re.compile(r'^ *File "(?P<file>.*)", line (?P<line>\d+)(?:, in \S+)?$')
_TRACED = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): \S+$")
_IN_FILE = "Serialized "  # before the range of a loaded graph's node in the file's own code
_SERIALIZED = "code/__torch__"


def calling_frames(names: Mapping[int, str], stop: CodeType) -> tuple[str | None, SourceLine | None]:
    """Return the module path and the source line of the operation that is being dispatched.

    Args:
        names: id of a module → its path.
        stop: code of the function that runs the pass; frames above it are not the model's.
    """
    module: str | None = None
    source: SourceLine | None = None
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame is None or frame.f_code is stop or (module is not None and source is not None):
            break
        file = frame.f_code.co_filename
        exported = place_of(frame)
        if exported is not None:
            source = source or _exported_line(exported)
            module = module or exported.module or None
        if source is None and not file.startswith((_TORCH, _OURS, "<frozen")):
            source = _line(file, frame.f_lineno)
        if module is None and "self" in frame.f_code.co_varnames[:1]:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                module = names.get(id(owner))
        frame = frame.f_back
    return module or None, source


def _exported_line(place: Place) -> SourceLine | None:
    if place.file is None:
        return None
    return SourceLine(file=_short(place.file), line=place.line, code=place.code or None)


def _line(file: str, line: int) -> SourceLine:
    return SourceLine(file=_short(file), line=line, code=linecache.getline(file, line).strip()[:200] or None)


def _short(file: str) -> str:
    here = f"{Path.cwd()}{os.sep}"
    return file.removeprefix(here)[-512:]


@dataclass(frozen=True)
class ScriptTraceback:
    """Where TorchScript's interpreter was when an operation raised.

    Attributes:
        source: innermost line of the model's own code outside torch; None where the file does not say.
        ranges: texts of the calls' source ranges, outermost first, by which nodes of graphs are found.
        is_traced: the range is one Python stack from when the model was traced.
    """

    source: SourceLine | None
    ranges: list[str]
    is_traced: bool = False


def script_traceback(message: str) -> ScriptTraceback:
    """Read the traceback in TorchScript's error message.

    Of a loaded file the message has two: of the code in the file, whose ranges tell the calls of an unrolled loop
    apart, and of the code that its author wrote.
    """
    sections = [section.split("\n")[1:] for section in message.split("Traceback of TorchScript")[1:]]
    if not sections:
        return ScriptTraceback(None, [])
    lines = [line for block in _blocks(sections[-1]) if (line := _line_of(block)) is not None]
    ranges = [_range_text("\n".join(block)) for block in _blocks(sections[0])]
    if ranges:
        return ScriptTraceback(lines[-1] if lines else _traced_line(sections[-1]), ranges)
    stack = "\n".join(line for line in sections[0] if _TRACED.match(line))
    return ScriptTraceback(_traced_line(sections[-1]), [stack] if stack else [], is_traced=True)


def _blocks(lines: list[str]) -> list[list[str]]:
    """Split a traceback into its frames, each with the lines of code around it."""
    starts = [index for index, line in enumerate(lines) if _FRAME.match(line)]
    if not starts:
        return []
    ends = [*starts[1:], len(lines)]
    return [
        [line for line in lines[start:end] if line and not line.startswith(("RuntimeError", "torch.jit.Error"))]
        for start, end in zip(starts, ends, strict=True)
    ]


def _line_of(block: list[str]) -> SourceLine | None:
    """Return the line of a frame; None for a frame inside torch or without a known line."""
    match = _FRAME.match(block[0])
    assert match is not None
    if _is_torchs(match["file"]) or match["file"].startswith(_SERIALIZED) or not int(match["line"]):
        return None
    marked = next((index for index, line in enumerate(block) if line.endswith("<--- HERE")), 0)
    code = block[marked - 1].strip()[:200] if marked > 1 else ""
    return SourceLine(file=_short(match["file"]), line=int(match["line"]), code=code or None)


def _traced_line(lines: list[str]) -> SourceLine | None:
    stack = [match for line in lines if (match := _TRACED.match(line))]
    own = next((match for match in stack if not _is_torchs(match["file"])), None)
    return _line(own["file"], int(own["line"])) if own is not None else None


def _is_torchs(file: str) -> bool:
    return "/torch/" in file


def script_module(model: nn.Module, traceback: ScriptTraceback, last_used: str) -> str | None:
    """Return the path of the module whose graph has the calls of a traceback; None for the root and where unknown.

    Args:
        model: the scripted or traced model.
        traceback: at the operation.
        last_used: path of the module whose parameters were used last before the operation; of modules with the same
            lines, the first one from there on is taken.
    """
    if not traceback.ranges:
        return None
    modules = dict(model.named_modules())
    if traceback.is_traced:
        paths = [path for path, module in modules.items() if traceback.ranges[0] in _own_ranges(module)]
    else:
        paths = _paths(model, traceback.ranges, "")
    order = {name: index for index, name in enumerate(modules)}
    after = [path for path in paths if order.get(path, 0) >= order.get(last_used, 0)]
    return next(iter([*after, *reversed(paths)]), "") or None


def _own_ranges(module: nn.Module) -> set[str]:
    graph = getattr(module, "graph", None)
    if graph is None:
        return set()
    return {_range_text(str(node.sourceRange())) for node in _nodes(graph) if node.kind() != "prim::CallMethod"}


def _paths(module: nn.Module, texts: list[str], path: str) -> list[str]:
    """Return the paths below a module along which each call's source range is that of a frame."""
    graph = getattr(module, "graph", None)
    if graph is None:
        return []
    attributes: dict[str, str] = {}
    paths: list[str] = []
    for node in _nodes(graph):
        if node.kind() == "prim::GetAttr":
            owner = next(node.inputs()).debugName()
            name = node.s("name")
            attributes[node.output().debugName()] = f"{attributes[owner]}.{name}" if owner in attributes else name
        elif len(paths) < _MOST_PATHS and _range_text(str(node.sourceRange())) == texts[0]:
            target = None
            if node.kind() == "prim::CallMethod":
                child = attributes.get(next(node.inputs()).debugName(), "")
                target = _submodule(module, child) if child else None
            if target is not None and len(texts) > 1:
                paths.extend(_paths(target, texts[1:], f"{path}.{child}".strip(".")))
            elif target is None:
                paths.append(path)  # an operation, or a function: what it calls is part of this module
    return list(dict.fromkeys(paths))


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        child = getattr(module, name, None)
        if not isinstance(child, nn.Module):
            return None
        module = child
    return module


def _nodes(graph: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _range_text(source_range: str) -> str:
    """Write a source range the same whether a traceback or a node of a graph has it."""
    lines = source_range.rpartition(_IN_FILE)[2].split("\n")
    match = _FRAME.match(lines[0])
    if match is None:
        return "\n".join(line for line in lines if _TRACED.match(line))
    return "\n".join([f"{match['file']}:{match['line']}", *(line for line in lines[1:] if line)]).rstrip()
