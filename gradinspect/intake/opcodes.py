"""Read a pickle without unpickling: its opcodes move plain values over a stack, and nothing is called or imported.

Only what torch's own TorchScript pickler writes is understood: 30 opcodes and the callables of its formats. The result
is a graph of nodes, bounded in opcodes and depth and free of cycles, because torch's loader recurses through it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gradinspect.intake.archive import refusal

MAX_OPCODES = 500_000  # chosen: about 30 a tensor; a second and 120 MB at worst
MAX_DEPTH = 200  # chosen: three levels for each level of modules; torch's own loader fails beyond some thousands
MAX_STRING = 2**20

Scalar = int | float | bool | str | None


@dataclass(slots=True, eq=False)
class PickleNode:
    """A value that an opcode made.

    Attributes:
        kind: tuple, list, dict, global, object (of a class), call (of a global) or storage.
        name: for global, object and call: `module name`.
        items: what it holds; keys and values in turn for a dict.
        offset: the byte at which it starts, for messages.
    """

    kind: str
    name: str = ""
    items: list[PickleValue] = field(default_factory=list)
    offset: int = 0


PickleValue = PickleNode | Scalar


class Pickle(NamedTuple):
    """The value that a pickle ends with, all storages it names in order, and how many opcodes it took."""

    value: PickleValue
    storages: list[PickleNode]
    opcodes: int


_CALLABLE = frozenset({
    "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch device", "builtins complex",
    "torch.jit._pickle build_intlist", "torch.jit._pickle build_tensorlist", "torch.jit._pickle build_doublelist",
    "torch.jit._pickle build_boollist", "torch.jit._pickle restore_type_tag",
})  # fmt: skip
STORAGE_BYTES = {
    "FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip


def read_pickle(data: bytes, name: str, *, limit: int = MAX_OPCODES) -> Pickle:
    """Follow a pickle's opcodes.

    Args:
        data: the pickle.
        name: of the entry, for messages.
        limit: most opcodes.

    Raises:
        ProblemError: `invalid_model`, with the entry and the byte.

    Cost: two microseconds and 250 bytes an opcode.
    """
    machine = _Machine(data, name)
    count, result = machine.run(limit)
    _check_depth(result, name)
    return Pickle(result, machine.storages, count)


class _Machine:
    """The stack machine. `memo` holds what was put aside, `marks` where groups of values begin."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0
        self.stack: list[PickleValue] = []
        self.marks: list[int] = []
        self.memo: dict[int, PickleValue] = {}
        self.storages: list[PickleNode] = []

    def run(self, limit: int) -> tuple[int, PickleValue]:
        data, length = self.data, len(self.data)
        for count in range(limit):
            if self.at >= length:
                raise self.fault("ends in the middle of something")
            opcode = data[self.at]
            self.at += 1
            if opcode == _STOP:
                if self.at != length or len(self.stack) != 1 or self.marks:
                    raise self.fault("ends in the middle of something")
                return count + 1, self.stack[0]
            step = _STEPS.get(opcode)
            if step is None:
                raise self.fault(f"uses the opcode {bytes([opcode])!r}, which torch.jit.save does not write")
            step(self)
        raise refusal(f"{self.name} has too many opcodes ({limit} were left); the model is too large to be inspected")

    def protocol(self) -> None:
        if self.at != 1 or self.take(1) != b"\x02":
            raise self.fault("is not of pickle protocol 2, which torch.jit.save writes")

    def number(self, layout: str, size: int) -> None:
        self.stack.append(struct.unpack(layout, self.take(size))[0])

    def long(self) -> None:
        digits = self.take(self.take(1)[0])
        if len(digits) > 8:
            raise self.fault("holds a number of more than 64 bits")
        self.stack.append(int.from_bytes(digits, "little", signed=True))

    def text(self) -> None:
        length = struct.unpack("<I", self.take(4))[0]
        if length > MAX_STRING:
            raise self.fault(f"holds a text of {length} bytes; at most {MAX_STRING} are taken")
        self.stack.append(self.take(length).decode("utf-8", "replace"))

    def put(self, layout: str, size: int) -> None:
        self.memo[struct.unpack(layout, self.take(size))[0]] = self.top()

    def get(self, layout: str, size: int) -> None:
        key = struct.unpack(layout, self.take(size))[0]
        if key not in self.memo:
            raise self.fault("reads what it has not written")
        self.stack.append(self.memo[key])

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def empty(self, kind: str) -> None:
        self.stack.append(PickleNode(kind, offset=self.at))

    def tuple(self, count: int) -> None:
        self.stack.append(PickleNode("tuple", items=self.pops(count), offset=self.at))

    def tuple_since_mark(self) -> None:
        self.stack.append(PickleNode("tuple", items=self.since_mark(), offset=self.at))

    def append(self) -> None:
        items = self.pops(1)
        self.node("list").items.extend(items)

    def appends(self) -> None:
        items = self.since_mark()
        self.node("list").items.extend(items)

    def set_item(self) -> None:
        items = self.pops(2)
        self.node("dict").items.extend(items)

    def set_items(self) -> None:
        items = self.since_mark()
        if len(items) % 2:
            raise self.fault("sets a key without a value")
        self.node("dict").items.extend(items)

    def build(self) -> None:
        state = self.pop()
        self.node("object").items.append(state)

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, PickleNode) or kind.kind != "global" or not kind.name.startswith("__torch__"):
            raise self.fault("makes an object of something that is no class of the file")
        if not isinstance(arguments, PickleNode) or arguments.kind != "tuple" or arguments.items:
            raise self.fault("makes an object with arguments")
        self.stack.append(PickleNode("object", kind.name, offset=self.at))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        # A member of an enumeration is written as a call of its class with the bare value, in no tuple.
        if isinstance(arguments, int | float | str) and _is_class(function):
            arguments = PickleNode("tuple", items=[arguments], offset=self.at)
        if not isinstance(function, PickleNode) or function.kind != "global" or not isinstance(arguments, PickleNode):
            raise self.fault("calls something that is no function")
        if arguments.kind != "tuple" or (function.name not in _CALLABLE and not function.name.startswith("__torch__")):
            raise self.fault(f"calls {function.name!r}")
        self.stack.append(PickleNode("call", function.name, arguments.items, self.at))

    def storage(self) -> None:
        described = self.pop()
        if not isinstance(described, PickleNode) or described.kind != "tuple" or len(described.items) != 5:
            raise self.fault("names a storage in a form that torch does not write")
        node = PickleNode("storage", items=described.items, offset=self.at)
        self.storages.append(node)
        self.stack.append(node)

    def global_name(self) -> None:
        module, name = self.line(), self.line()
        full = f"{module} {name}"
        if full.startswith("__torch__.torch.classes"):
            raise self.fault(f"needs the custom class {module}.{name}, which is not taken; export without quantisation")
        allowed = module == "__torch__" or module.startswith("__torch__.") or full in _CALLABLE
        if not allowed and not (module == "torch" and name in STORAGE_BYTES):
            if module == "torch" and name.startswith("Q") and name.endswith("Storage"):
                raise self.fault(f"holds quantised tensors ({name}), which have no gradient")
            raise self.fault(f"names {module}.{name}, which a model does not need")
        self.stack.append(PickleNode("global", full, offset=self.at))

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1024)
        if end < 0:
            raise self.fault("holds a name without an end")
        raw, self.at = self.data[self.at : end], end + 1
        if not raw.isascii() or not raw.decode("ascii").isprintable():
            raise self.fault("holds a name that is no name")
        return raw.decode("ascii")

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise self.fault("ends in the middle of something")
        self.at += count
        return piece

    def top(self) -> PickleValue:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.fault("takes more from its stack than there is")
        return self.stack[-1]

    def pop(self) -> PickleValue:
        self.top()
        return self.stack.pop()

    def pops(self, count: int) -> list[PickleValue]:
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[PickleValue]:
        if not self.marks:
            raise self.fault("closes a group that it has not opened")
        mark = self.marks.pop()
        items, self.stack[mark:] = self.stack[mark:], []
        return items

    def node(self, kind: str) -> PickleNode:
        top = self.top()
        if not isinstance(top, PickleNode) or top.kind != kind:
            raise self.fault(f"fills a {kind} that is none")
        return top

    def fault(self, what: str) -> Exception:
        return refusal(f"{self.name} {what} (byte {self.at})")


def _is_class(value: PickleValue) -> bool:
    return isinstance(value, PickleNode) and value.kind == "global" and value.name.startswith("__torch__")


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    ord("N"): lambda machine: machine.stack.append(None),
    0x88: lambda machine: machine.stack.append(True),
    0x89: lambda machine: machine.stack.append(False),
    ord("K"): lambda machine: machine.number("<B", 1),
    ord("M"): lambda machine: machine.number("<H", 2),
    ord("J"): lambda machine: machine.number("<i", 4),
    ord("G"): lambda machine: machine.number(">d", 8),
    0x8A: _Machine.long,
    ord("X"): _Machine.text,
    ord("q"): lambda machine: machine.put("<B", 1),
    ord("r"): lambda machine: machine.put("<I", 4),
    ord("h"): lambda machine: machine.get("<B", 1),
    ord("j"): lambda machine: machine.get("<I", 4),
    ord("("): _Machine.mark,
    ord(")"): lambda machine: machine.empty("tuple"),
    ord("]"): lambda machine: machine.empty("list"),
    ord("}"): lambda machine: machine.empty("dict"),
    ord("t"): _Machine.tuple_since_mark,
    0x85: lambda machine: machine.tuple(1),
    0x86: lambda machine: machine.tuple(2),
    0x87: lambda machine: machine.tuple(3),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("c"): _Machine.global_name,
    0x81: _Machine.new_object,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.storage,
}


def _check_depth(root: PickleValue, name: str) -> None:
    """Refuse a graph that is too deep, or that leads back to itself."""
    if not isinstance(root, PickleNode):
        return
    depth: dict[int, int] = {}  # by identity; 0 while a node's own items are being looked at
    stack: list[tuple[PickleNode, bool]] = [(root, False)]
    while stack:
        node, left = stack.pop()
        # Items without items are one deep.
        children = [item for item in node.items if isinstance(item, PickleNode) and item.items]
        if left:
            depth[id(node)] = 1 + max((depth[id(child)] for child in children), default=0)
            if depth[id(node)] > MAX_DEPTH:
                raise refusal(f"{name} is nested deeper than {MAX_DEPTH} levels (byte {node.offset})")
            continue
        if depth.get(id(node)) is not None:
            if depth[id(node)] == 0:
                raise refusal(f"{name} holds a value that contains itself (byte {node.offset})")
            continue
        depth[id(node)] = 0
        stack.append((node, True))
        stack.extend((child, False) for child in children)
