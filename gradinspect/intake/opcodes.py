"""Read a pickle without unpickling: its opcodes move plain values over a stack, and nothing is called or imported.

Only what torch's own TorchScript pickler writes is understood: 30 opcodes and the callables of its formats. The result
is a graph of nodes, held to a number of opcodes, a depth and no cycle, because torch's loader recurses through it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from gradinspect.intake.archive import refusal

MAX_OPCODES = 500_000  # chosen: about 30 a tensor; some 100 MB of nodes at worst
MAX_DEPTH = 200  # chosen: three levels for each level of modules; torch's own loader fails beyond some thousands
MAX_STRING = 2**20

Literal = int | float | bool | str | None


@dataclass(slots=True, eq=False)
class Node:
    """What an opcode made.

    Attributes:
        kind: tuple, list, dict, global, object (of a class), call (of a global) or storage.
        name: for global, object and call: `module name`.
        items: what it holds; keys and values in turn for a dict.
        place: the byte at which it starts, for messages.
    """

    kind: str
    name: str = ""
    items: list[Value] = field(default_factory=list)
    place: int = 0


Value = Node | Literal

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


def read_pickle(data: bytes, name: str) -> tuple[Value, list[Node]]:
    """Follow a pickle's opcodes.

    Args:
        data: the pickle.
        name: of the entry, for messages.

    Returns:
        The value that it ends with, and all storages it names, in order.

    Raises:
        ProblemError: `invalid_model`, with the entry and the byte.

    Cost: about a microsecond an opcode, at most MAX_OPCODES of them.
    """
    machine = _Machine(data, name)
    result = machine.run()
    _check_depth(result, name)
    return result, machine.storages


class _Machine:
    """The stack machine. `memo` holds what was put aside, `marks` where groups of values begin."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.storages: list[Node] = []

    def run(self) -> Value:
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                if self.at != len(self.data) or len(self.stack) != 1 or self.marks:
                    raise self.fault("ends in the middle of something")
                return self.stack[0]
            self.step(opcode)
        raise refusal(f"{self.name} has more than {MAX_OPCODES} opcodes")

    def step(self, opcode: bytes) -> None:
        """Do one opcode."""
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            layout, size = _NUMBERS[opcode]
            self.stack.append(struct.unpack(layout, self.take(size))[0])
        elif opcode in b"qr":
            self.memo[self.number(opcode == b"q")] = self.top()
        elif opcode in b"hj":
            key = self.number(opcode == b"h")
            if key not in self.memo:
                raise self.fault("reads what it has not written")
            self.stack.append(self.memo[key])
        elif opcode == b"(":
            self.marks.append(len(self.stack))
        elif opcode == b"X":
            self.stack.append(self.text())
        elif opcode == b"\x8a":
            digits = self.take(self.take(1)[0])
            if len(digits) > 8:
                raise self.fault("holds a number of more than 64 bits")
            self.stack.append(int.from_bytes(digits, "little", signed=True))
        elif opcode in _CONTAINERS:
            self.stack.append(Node(_CONTAINERS[opcode], place=self.at))
        elif opcode in b"\x85\x86\x87t":
            count = b"\x85\x86\x87".find(opcode) + 1
            items = self.pops(count) if count else self.since_mark()
            self.stack.append(Node("tuple", items=items, place=self.at))
        elif opcode in b"ae":
            items = self.pops(1) if opcode == b"a" else self.since_mark()
            self.node("list").items.extend(items)
        elif opcode in b"su":
            items = self.pops(2) if opcode == b"s" else self.since_mark()
            if len(items) % 2:
                raise self.fault("sets a key without a value")
            self.node("dict").items.extend(items)
        elif opcode == b"c":
            self.stack.append(self.global_name())
        elif opcode == b"\x81":
            self.new_object()
        elif opcode == b"R":
            self.call()
        elif opcode == b"b":
            state = self.pop()
            self.node("object").items.append(state)
        elif opcode == b"Q":
            self.storage()
        elif opcode == b"\x80":
            if self.at != 1 or self.take(1) != b"\x02":
                raise self.fault("is not of pickle protocol 2, which torch.jit.save writes")
        else:
            raise self.fault(f"uses the opcode {opcode!r}, which torch.jit.save does not write")

    def new_object(self) -> None:
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, Node) or kind.kind != "global" or not kind.name.startswith("__torch__"):
            raise self.fault("makes an object of something that is no class of the file")
        if not isinstance(arguments, Node) or arguments.kind != "tuple" or arguments.items:
            raise self.fault("makes an object with arguments")
        self.stack.append(Node("object", kind.name, place=self.at))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Node) or function.kind != "global" or not isinstance(arguments, Node):
            raise self.fault("calls something that is no function")
        if arguments.kind != "tuple" or (function.name not in _CALLABLE and not function.name.startswith("__torch__")):
            raise self.fault(f"calls {function.name!r}")
        self.stack.append(Node("call", function.name, arguments.items, self.at))

    def storage(self) -> None:
        described = self.pop()
        if not isinstance(described, Node) or described.kind != "tuple" or len(described.items) != 5:
            raise self.fault("names a storage in a form that torch does not write")
        node = Node("storage", items=described.items, place=self.at)
        self.storages.append(node)
        self.stack.append(node)

    def global_name(self) -> Node:
        module, name = self.line(), self.line()
        full = f"{module} {name}"
        if full.startswith("__torch__.torch.classes"):
            raise self.fault(f"needs the custom class {module}.{name}, which is not taken; export without quantisation")
        allowed = module == "__torch__" or module.startswith("__torch__.") or full in _CALLABLE
        if not allowed and not (module == "torch" and name in STORAGE_BYTES):
            if module == "torch" and name.startswith("Q") and name.endswith("Storage"):
                raise self.fault(f"holds quantised tensors ({name}), which have no gradient")
            raise self.fault(f"names {module}.{name}, which a model does not need")
        return Node("global", full, place=self.at)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1024)
        if end < 0:
            raise self.fault("holds a name without an end")
        raw, self.at = self.data[self.at : end], end + 1
        if not raw.isascii() or not raw.decode("ascii").isprintable():
            raise self.fault("holds a name that is no name")
        return raw.decode("ascii")

    def text(self) -> str:
        length = struct.unpack("<I", self.take(4))[0]
        if length > MAX_STRING:
            raise self.fault(f"holds a text of {length} bytes; at most {MAX_STRING} are taken")
        return self.take(length).decode("utf-8", "replace")

    def number(self, short: bool) -> int:
        number: int = self.take(1)[0] if short else struct.unpack("<I", self.take(4))[0]
        return number

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise self.fault("ends in the middle of something")
        self.at += count
        return piece

    def top(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.fault("takes more from its stack than there is")
        return self.stack[-1]

    def pop(self) -> Value:
        self.top()
        return self.stack.pop()

    def pops(self, count: int) -> list[Value]:
        return [self.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Value]:
        if not self.marks:
            raise self.fault("closes a group that it has not opened")
        mark = self.marks.pop()
        items, self.stack[mark:] = self.stack[mark:], []
        return items

    def node(self, kind: str) -> Node:
        top = self.top()
        if not isinstance(top, Node) or top.kind != kind:
            raise self.fault(f"fills a {kind} that is none")
        return top

    def fault(self, what: str) -> Exception:
        return refusal(f"{self.name} {what} (byte {self.at})")


_CONSTANTS: dict[bytes, Literal] = {b"N": None, b"\x88": True, b"\x89": False}
_NUMBERS = {b"K": ("<B", 1), b"M": ("<H", 2), b"J": ("<i", 4), b"G": (">d", 8)}
_CONTAINERS = {b")": "tuple", b"]": "list", b"}": "dict"}


def _check_depth(root: Value, name: str) -> None:
    """Refuse a graph that is too deep, or that leads back to itself."""
    if not isinstance(root, Node):
        return
    depth: dict[int, int] = {}  # by identity; 0 while a node's own items are being looked at
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, left = stack.pop()
        children = [item for item in node.items if isinstance(item, Node)]
        if left:
            depth[id(node)] = 1 + max((depth[id(child)] for child in children), default=0)
            if depth[id(node)] > MAX_DEPTH:
                raise refusal(f"{name} is nested deeper than {MAX_DEPTH} levels (byte {node.place})")
            continue
        if depth.get(id(node)) is not None:
            if depth[id(node)] == 0:
                raise refusal(f"{name} holds a value that contains itself (byte {node.place})")
            continue
        depth[id(node)] = 0
        stack.append((node, True))
        stack.extend((child, False) for child in children)
