"""The module and the source line of a node, from the metadata that torch.export writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gradinspect.contracts.exported.program import Place
from gradinspect.intake.exported.fields import JsonField

MAX_TRACE = 65_536
MAX_STACK = 65_536
MAX_KINDS = 200_000
_FRAME = re.compile(r'^ *File "(?P<file>[^"\n]{1,4096})", line (?P<line>\d{1,9})(?:, in (?P<function>[^\n]{1,200}))?$')
_IN_TORCH = re.compile(r"(^|/)torch/(?!.*/site-packages/)")
_CALL_NUMBER = re.compile(r"@\d+$")  # of a module's second and later calls
_KNOWN = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node")


class Places:
    """Reads the places of nodes and collects the classes of the modules that they name."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self._stacks: dict[str, str] = {}
        self._traces: dict[str, tuple[str | None, int, str, str]] = {}

    def read(self, field: JsonField) -> Place:
        """Return the place of a node; what the file does not say is left out."""
        members = field.fields([], _KNOWN)
        stack = members["nn_module_stack"].text(MAX_STACK) if "nn_module_stack" in members else ""
        trace = members["stack_trace"].text(MAX_TRACE) if "stack_trace" in members else ""
        if stack not in self._stacks:
            self._stacks[stack] = self._module(stack)
        if trace not in self._traces:
            self._traces[trace] = _innermost(trace)
        return Place(self._stacks[stack], *self._traces[trace])

    def _module(self, stack: str) -> str:
        """Note the classes in a stack of modules and return the path of the innermost."""
        path = ""
        for path, kind in _modules(stack):
            if len(self.kinds) < MAX_KINDS:
                self.kinds.setdefault(path, kind)
        return path


def _modules(stack: str) -> Iterator[tuple[str, str]]:
    """Yield path and class of each module: `L__self__conv,conv,torch.nn.modules.conv.Conv1d`, joined by semicolons."""
    for entry in stack.split(";"):
        parts = entry.split(",")
        if len(parts) == 3 and not parts[0].startswith("_empty_nn_module_stack"):
            yield _CALL_NUMBER.sub("", parts[1])[:512], parts[2].rpartition(".")[2][:512]


def _innermost(trace: str) -> tuple[str | None, int, str, str]:
    """Return file, line, function and text of the innermost frame outside torch."""
    lines = trace.splitlines()
    for index in range(len(lines) - 1, -1, -1):
        match = _FRAME.match(lines[index])
        if match is not None and not _IN_TORCH.search(match["file"]):
            following = lines[index + 1] if index + 1 < len(lines) else ""
            code = "" if _FRAME.match(following) else following.strip()
            return match["file"][-512:], int(match["line"]), match["function"] or "", code[:200]
    return None, 0, "", ""
