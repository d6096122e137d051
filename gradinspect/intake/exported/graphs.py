"""The graph of an exported program: nodes, arguments and sub-graphs, each value made before it is used."""

from __future__ import annotations

import re
from collections.abc import Callable

from gradinspect.contracts.exported.program import (
    Argument,
    Device,
    DType,
    Graph,
    MemoryFormat,
    Node,
    Ref,
    Strided,
    Value,
)
from gradinspect.intake.exported.fields import JsonField
from gradinspect.intake.exported.operators import ATEN_OPERATORS, HIGHER_ORDER, NUMBER_OPERATORS, advice_for
from gradinspect.intake.exported.places import Places
from gradinspect.intake.exported.tensors import (
    MEMORY_FORMATS,
    STRIDED,
    Sizes,
    TensorMeta,
    check_device,
    read_dtype,
    read_meta,
)

MAX_NODES = 100_000  # of all graphs together; chosen: a decoder of 100 layers has about 6,000
MAX_NESTING = 8  # graphs in graphs
MAX_ARGUMENTS = 64
MAX_LIST = 65_536

_GRAPH = ("inputs", "outputs", "nodes", "tensor_values", "sym_int_values", "sym_bool_values")
_GRAPH_MORE = ("is_single_tensor_return", "custom_obj_values", "sym_float_values")
_NODE, _NODE_MORE = ("target", "inputs", "outputs", "metadata"), ("is_hop_single_tensor_return", "name")
_ATEN = re.compile(
    r"torch\.ops\.(?P<namespace>\w{1,64})\.(?P<operator>\w{1,128})(?:\.(?P<overload>\w{1,128}))?", re.ASCII
)
_SYMBOLIC = {"as_sym_int": "as_int", "as_sym_float": "as_float", "as_sym_bool": "as_bool"}
_CALLED_GRAPHS = "higher_order"


class GraphReader:
    """Reads a graph and those in it; counts nodes over all of them.

    Attributes:
        places: modules and source lines of the nodes that were read.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.places = Places()
        self._sizes = sizes
        self._nodes = 0
        self._nesting = 0

    def read(self, field: JsonField) -> tuple[Graph, dict[str, TensorMeta]]:
        """Read a graph; return it with the descriptions of its tensors.

        Raises:
            ProblemError: `invalid_model` or `unsupported_operator`, with the node.
        """
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise field.refuse(f"graphs nest deeper than {MAX_NESTING} levels")
        members = field.fields(_GRAPH, _GRAPH_MORE)
        if "custom_obj_values" in members and members["custom_obj_values"].members():
            raise members["custom_obj_values"].refuse(
                "custom objects are not taken; replace them by tensors and modules"
            )
        metas = {name: read_meta(meta, self._sizes) for name, meta in members["tensor_values"].members().items()}
        for kind in ("sym_int_values", "sym_bool_values", "sym_float_values"):
            for value in members[kind].members().values() if kind in members else ():
                self._sizes.read(value)
        scope = _Scope(self)
        inputs = tuple(scope.define_input(item) for item in members["inputs"].items())
        nodes = tuple(self._node(item, scope) for item in members["nodes"].items(MAX_NODES))
        outputs = tuple(scope.value(item) for item in members["outputs"].items())
        self._nesting -= 1
        return Graph(inputs, nodes, outputs), metas

    def _node(self, field: JsonField, scope: _Scope) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise field.refuse(f"the program has more than {MAX_NODES} nodes")
        members = field.fields(_NODE, _NODE_MORE)
        namespace, operator, overload = read_target(members["target"])
        arguments = tuple(
            self._argument(item, scope, takes_graphs=namespace == _CALLED_GRAPHS)
            for item in members["inputs"].items(MAX_LIST if namespace == _CALLED_GRAPHS else MAX_ARGUMENTS)
        )
        given = [argument.name for argument in arguments if argument.name]
        if len(given) != len(set(given)):
            raise members["inputs"].refuse("one argument is given twice")
        outputs = tuple(scope.define(item) for item in members["outputs"].items(MAX_LIST))
        is_one = members.get("is_hop_single_tensor_return")
        name = members.get("name")
        return Node(
            name.name() if name is not None and name.value is not None else operator,
            namespace,
            operator,
            overload,
            arguments,
            outputs,
            is_one is not None and is_one.value is not None and is_one.boolean(),
            self.places.read(members["metadata"]),
        )

    def _argument(self, field: JsonField, scope: _Scope, *, takes_graphs: bool) -> Argument:
        members = field.fields(["name", "arg"], ["kind"])
        name = members["name"].text(128)
        if not takes_graphs and not name.isidentifier():
            raise members["name"].refuse("is no name of an argument")
        kind = members.get("kind")
        code = kind.integer(0, 2) if kind is not None and kind.value is not None else 0
        if "as_graph" in members["arg"].members() and not takes_graphs:
            raise members["arg"].refuse("only higher-order operators take a graph")
        return Argument(name, scope.value(members["arg"]), is_keyword=code == 2)


class _Scope:
    """The values that exist in one graph so far."""

    def __init__(self, reader: GraphReader) -> None:
        self._reader = reader
        self._names: set[str] = set()

    def define_input(self, field: JsonField) -> str:
        """Define an input of the graph; return its name, or nothing for a constant."""
        kind, inner = field.variant()
        if kind == "as_tensor":
            return self._new(inner.fields(["name"])["name"])
        if kind in _SYMBOLIC:
            return self._new(inner.fields(["as_name"])["as_name"])
        if kind in ("as_none", "as_int", "as_float", "as_bool", "as_string"):
            return ""
        raise field.refuse(f"has the form {kind[:40]!r}, which no input has; tensors and numbers are taken")

    def define(self, field: JsonField) -> str | tuple[str, ...] | None:
        """Define a result of a node."""
        kind, inner = field.variant()
        if kind == "as_tensor":
            return self._new(inner.fields(["name"])["name"])
        if kind == "as_tensors":
            return tuple(self._new(item.fields(["name"])["name"]) for item in inner.items(MAX_LIST))
        if kind in _SYMBOLIC:
            form, value = inner.variant()
            return self._new(value) if form == "as_name" else None
        if kind in ("as_none", "as_int", "as_bool", "as_float"):
            return None
        raise field.refuse(f"has the form {kind[:40]!r}, which no result has")

    def value(self, field: JsonField) -> Value:
        """Read an argument."""
        kind, inner = field.variant()
        if kind == "as_none":
            return None
        if kind in _SYMBOLIC:
            return self._symbolic(inner, _SYMBOLIC[kind])
        if kind in _PLAIN:
            return _PLAIN[kind](inner)
        read = _WITH_NAMES.get(kind)
        if read is not None:
            return read(self, inner)
        if kind == "as_graph":
            members = inner.fields(["name", "graph"])
            members["name"].name()
            graph, _ = self._reader.read(members["graph"])
            return graph
        raise field.refuse(f"has the form {kind[:40]!r}, which is not taken", code="unsupported_operator")

    def _new(self, field: JsonField) -> str:
        name = field.name()
        if name in self._names:
            raise field.refuse(f"{name[:80]!r} is made twice")
        self._names.add(name)
        return name

    def _used(self, field: JsonField) -> Ref:
        name = field.name()
        if name not in self._names:
            raise field.refuse(f"{name[:80]!r} is used before it is made")
        return Ref(name)

    def _tensor(self, field: JsonField) -> Ref:
        return self._used(field.fields(["name"])["name"])

    def _tensors(self, field: JsonField) -> Value:
        return tuple(self._tensor(item) for item in field.items(MAX_LIST))

    def _optional_tensor(self, field: JsonField) -> Value:
        kind, inner = field.variant()
        if kind == "as_none":
            return None
        if kind != "as_tensor":
            raise field.refuse(f"has the form {kind[:40]!r}, which is no tensor")
        return self._tensor(inner)

    def _optional_tensors(self, field: JsonField) -> Value:
        return tuple(self._optional_tensor(item) for item in field.items(MAX_LIST))

    def _symbolic(self, field: JsonField, plain: str) -> Value:
        kind, inner = field.variant()
        if kind == "as_name":
            return self._used(inner)
        if kind != plain:
            raise field.refuse(f"has the form {kind[:40]!r}, which is no number")
        return _PLAIN[kind](inner)

    def _symbolic_list(self, field: JsonField, plain: str) -> Value:
        return tuple(self._symbolic(item, plain) for item in field.items(MAX_LIST))


def read_target(field: JsonField) -> tuple[str, str, str]:
    """Return namespace, operator and overload of a node that may run.

    Raises:
        ProblemError: `unsupported_operator`, with the name of the operator and what to do instead.
    """
    target = field.text(256)
    if target in NUMBER_OPERATORS:
        return "number", target, ""
    match = _ATEN.fullmatch(target)
    if match is None:
        raise field.refuse(f"{target[:80]!r} is no operator of torch", code="unsupported_operator")
    namespace, operator, overload = match["namespace"], match["operator"], match["overload"] or ""
    if namespace == _CALLED_GRAPHS:
        is_allowed = operator in HIGHER_ORDER and not overload
    else:
        writes_elsewhere = overload == "out" or overload.endswith("_out")
        is_allowed = namespace == "aten" and operator in ATEN_OPERATORS and bool(overload) and not writes_elsewhere
    if not is_allowed:
        what = f"the operator {target.removeprefix('torch.ops.')[:160]} is not allowed"
        raise field.refuse(f"{what}; {advice_for(namespace, operator)}", code="unsupported_operator")
    return namespace, operator, overload


def _layout(field: JsonField) -> Strided:
    if field.integer(0, 7) != STRIDED:
        raise field.refuse("only strided tensors are taken; make the tensor dense before the model is exported")
    return Strided()


def _device(field: JsonField) -> Device:
    check_device(field)
    return Device()


def _memory_format(field: JsonField) -> MemoryFormat:
    code = field.integer(0, 4)
    if code not in MEMORY_FORMATS:
        raise field.refuse("the memory format is not known")
    return MemoryFormat(MEMORY_FORMATS[code])


def _complex(field: JsonField) -> complex:
    members = field.fields(["real", "imag"])
    return complex(members["real"].number(), members["imag"].number())


def _list_of(read: Callable[[JsonField], Value]) -> Callable[[JsonField], Value]:
    return lambda field: tuple(read(item) for item in field.items(MAX_LIST))


_PLAIN: dict[str, Callable[[JsonField], Value]] = {
    "as_int": JsonField.integer,
    "as_ints": _list_of(JsonField.integer),
    "as_int_lists": _list_of(_list_of(JsonField.integer)),
    "as_float": JsonField.number,
    "as_floats": _list_of(JsonField.number),
    "as_float_lists": _list_of(_list_of(JsonField.number)),
    "as_bool": JsonField.boolean,
    "as_bools": _list_of(JsonField.boolean),
    "as_string": JsonField.text,
    "as_strings": _list_of(JsonField.text),
    "as_complex": _complex,
    "as_scalar_type": lambda field: DType(read_dtype(field)),
    "as_memory_format": _memory_format,
    "as_layout": _layout,
    "as_device": _device,
}
_WITH_NAMES: dict[str, Callable[[_Scope, JsonField], Value]] = {
    "as_tensor": _Scope._tensor,
    "as_tensors": _Scope._tensors,
    "as_optional_tensor": _Scope._optional_tensor,
    "as_optional_tensors": _Scope._optional_tensors,
    "as_nested_tensors": lambda scope, field: tuple(scope._tensors(item) for item in field.items(MAX_LIST)),
    "as_sym_ints": lambda scope, field: scope._symbolic_list(field, "as_int"),
    "as_sym_floats": lambda scope, field: scope._symbolic_list(field, "as_float"),
    "as_sym_bools": lambda scope, field: scope._symbolic_list(field, "as_bool"),
}
