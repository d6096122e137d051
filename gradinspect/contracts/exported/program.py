"""The parts of an exported program. Names are the file's; every value was checked by `intake.exported`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradinspect.contracts.exported.expressions import Expression
from gradinspect.contracts.request.request import Mode

MutationKind = Literal["buffer", "parameter", "input"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of a value that an input or an earlier node made."""

    name: str


@dataclass(frozen=True, slots=True)
class DType:
    """An element type, by torch's name: float32."""

    name: str


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    """An order of axes in memory, by torch's name: channels_last."""

    name: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device; whichever the file names, the model runs where its parameters are."""


@dataclass(frozen=True, slots=True)
class Strided:
    """The only layout that is taken."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the author's code called an operation.

    Attributes:
        module: path of the innermost module; empty for the root.
        file: of the innermost line outside torch; None where the file does not say.
        line: from 1.
        function: that the line is in.
        code: text of the line.
    """

    module: str = ""
    file: str | None = None
    line: int = 0
    function: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an operator; `name` is empty for a higher-order operator's."""

    name: str
    value: Value
    is_keyword: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        name: of the node in the file.
        namespace: "aten", "higher_order", or "number" for arithmetic of sizes.
        operator: its name, without namespace and overload.
        overload: of an ATen operator.
        arguments: in the file's order.
        outputs: a name for each result; a tuple for a list of tensors; None for a result that is left out.
        is_one_tensor: of a higher-order operator whose result is a tensor and no tuple.
        place: in the author's code.
    """

    name: str
    namespace: str
    operator: str
    overload: str
    arguments: tuple[Argument, ...]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    is_one_tensor: bool
    place: Place

    @property
    def target(self) -> str:
        """The operator as people write it: aten.linear.default."""
        return ".".join(part for part in (self.namespace, self.operator, self.overload) if part)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they run.

    Attributes:
        inputs: names of the values that it is called with; empty for a constant, which is written where it is used.
        nodes: each takes inputs and results of earlier nodes alone.
        outputs: what it returns.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]


# A list holds one kind of elements; None stands for an optional tensor that is left out.
Scalar = bool | int | float | complex | str | Ref | DType | MemoryFormat | Device | Strided | Graph | None
Value = Scalar | tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor whose bytes are in the file.

    Attributes:
        name: as the model knows it: layers.0.weight.
        dtype: by torch's name.
        shape: of the tensor.
        strides: of the tensor, in elements.
        offset: of its first element in the storage, in elements.
        requires_grad: whether it is trained.
        start: of its storage, in bytes from the start of the file.
        size_bytes: of its storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    requires_grad: bool
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GivenTensor:
    """A tensor that the caller gives.

    Attributes:
        name: of the argument, with keys and indices of nested structures behind it.
        value: name in the graph.
        dtype: by torch's name.
        sizes: of its axes.
        example: its shape when the program was exported.
        bound: a number above all of its elements, where it indexes a table; None where that is not known.
    """

    name: str
    value: str
    dtype: str
    sizes: tuple[Expression, ...]
    example: tuple[int, ...]
    bound: int | None = None


@dataclass(frozen=True, slots=True)
class GivenConstant:
    """An argument that was no tensor when the program was exported and is fixed since then.

    Attributes:
        constant: what was given.
    """

    constant: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """A structure of arguments or results.

    Attributes:
        kind: "leaf", "tuple", "list" or "dict"; a class of the author's is a dict by its fields, else a tuple.
        keys: of a dict.
        children: in order.
    """

    kind: str
    keys: tuple[str | int, ...] = ()
    children: tuple[Tree, ...] = ()

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return 1 if self.kind == "leaf" else sum(child.leaves for child in self.children)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A value that is written back once the graph has run.

    Attributes:
        kind: what is written to.
        target: name in the graph of what is written to.
        position: of the new value among the graph's results.
    """

    kind: MutationKind
    target: str
    position: int


@dataclass(frozen=True, slots=True)
class Program:
    """A whole exported program.

    Attributes:
        graph: takes parameters, buffers, constants and the caller's inputs.
        parameters, buffers, constants: (name in the graph, tensor); names of one storage are tied.
        inputs: what the caller gives, in order.
        outputs: positions among the graph's results of what the caller gets, in the order of `output_tree`'s leaves.
        mutations: written back after each run.
        input_tree: a tuple of positional arguments and a dict of keyword arguments.
        output_tree: of the results.
        ranges: of symbols, both ends included.
        kinds: class of each module, by its path.
        mode: in which the program was exported; None where no operator depends on it.
        torch_version: that wrote it.
    """

    graph: Graph
    parameters: tuple[tuple[str, StoredTensor], ...]
    buffers: tuple[tuple[str, StoredTensor], ...]
    constants: tuple[tuple[str, StoredTensor], ...]
    inputs: tuple[GivenTensor | GivenConstant, ...]
    outputs: tuple[int, ...]
    mutations: tuple[Mutation, ...]
    input_tree: Tree
    output_tree: Tree
    ranges: dict[str, tuple[int, int]]
    kinds: dict[str, str]
    mode: Mode | None
    torch_version: str
