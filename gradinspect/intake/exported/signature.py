"""Which values of the graph are parameters, buffers, constants, the caller's inputs and results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gradinspect.contracts.exported.program import (
    GivenConstant,
    GivenTensor,
    Graph,
    Mutation,
    MutationKind,
    Node,
    Ref,
    StoredTensor,
    Tree,
)
from gradinspect.intake.exported.fields import JsonField
from gradinspect.intake.exported.tensors import TensorMeta
from gradinspect.intake.exported.trees import leaf_names, read_tree

MAX_INPUTS = 65_536
_CONSTANTS: dict[str, Callable[[JsonField], bool | int | float | str | None]] = {
    "as_none": lambda _field: None, "as_int": JsonField.integer, "as_float": JsonField.number,
    "as_string": JsonField.text, "as_bool": JsonField.boolean,
}  # fmt: skip
_NUMBERS = {"as_sym_int": "as_int", "as_sym_float": "as_float", "as_sym_bool": "as_bool"}
_MUTATIONS: dict[str, tuple[MutationKind, str]] = {
    "buffer_mutation": ("buffer", "buffer_name"), "parameter_mutation": ("parameter", "parameter_name"),
    "user_input_mutation": ("input", "user_input_name"),
}  # fmt: skip
# Operators whose result has the elements of their first argument: token ids pass through them to an embedding.
_PASS_ON = frozenset(
    {"view", "reshape", "to", "_to_copy", "slice", "select", "squeeze", "unsqueeze", "contiguous", "clone", "flatten",
     "transpose", "permute", "narrow", "expand", "alias", "detach"}
)  # fmt: skip


@dataclass
class Signature:
    """The roles of the graph's inputs and outputs, in order."""

    parameters: list[tuple[str, StoredTensor]] = field(default_factory=list)
    buffers: list[tuple[str, StoredTensor]] = field(default_factory=list)
    constants: list[tuple[str, StoredTensor]] = field(default_factory=list)
    inputs: list[GivenTensor | GivenConstant] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    mutations: list[Mutation] = field(default_factory=list)


class SignatureReader:
    """Reads a signature against the graph and the tensors of the archive.

    Args:
        graph: with the names that the signature refers to.
        metas: descriptions of the graph's tensors.
        weights, constants: the archive's tensors by their names in the model.
    """

    def __init__(
        self,
        graph: Graph,
        metas: Mapping[str, TensorMeta],
        weights: Mapping[str, StoredTensor],
        constants: Mapping[str, StoredTensor],
    ) -> None:
        self._graph, self._metas = graph, metas
        self._weights, self._constants = weights, constants

    def read(self, signature: JsonField, names: Iterable[str]) -> Signature:
        """Read the roles; `names` are those of the caller's inputs.

        Raises:
            ProblemError: `invalid_model`, with the input or output.
        """
        members = signature.fields(["input_specs", "output_specs"])
        result = Signature()
        specs = members["input_specs"].items(MAX_INPUTS)
        if len(specs) != len(self._graph.inputs):
            raise members["input_specs"].refuse(
                f"describes {len(specs)} inputs; the graph has {len(self._graph.inputs)}"
            )
        left = iter(names)
        for spec, value in zip(specs, self._graph.inputs, strict=True):
            self._input(spec, value, result, left)
        if next(left, None) is not None:
            raise members["input_specs"].refuse("has fewer inputs than the structure of the arguments has leaves")
        outputs = members["output_specs"].items(MAX_INPUTS)
        if len(outputs) != len(self._graph.outputs):
            raise members["output_specs"].refuse(
                f"describes {len(outputs)} results; the graph has {len(self._graph.outputs)}"
            )
        for position, spec in enumerate(outputs):
            self._output(spec, position, result)
        return result

    def _input(self, spec: JsonField, value: str, result: Signature, names: Iterator[str]) -> None:
        kind, inner = spec.variant()
        if kind == "parameter":
            members = inner.fields(["arg", "parameter_name"])
            stored = self._stored(members["arg"], members["parameter_name"], self._weights, value)
            result.parameters.append((value, stored))
        elif kind == "buffer":
            members = inner.fields(["arg", "buffer_name", "persistent"])
            source = self._weights if members["persistent"].boolean() else self._constants
            result.buffers.append((value, self._stored(members["arg"], members["buffer_name"], source, value)))
        elif kind == "tensor_constant":
            members = inner.fields(["arg", "tensor_constant_name"])
            stored = self._stored(members["arg"], members["tensor_constant_name"], self._constants, value)
            result.constants.append((value, stored))
        elif kind in ("user_input", "constant_input"):
            name = next(names, None)
            if name is None:
                raise spec.refuse("is an input more than the structure of the arguments has leaves")
            given = self._given(inner, value, name) if kind == "user_input" else self._fixed(inner)
            result.inputs.append(given)
        elif kind == "custom_obj":
            raise spec.refuse("is a custom object; replace it by tensors and modules before the model is exported")
        else:
            raise spec.refuse(f"has the role {kind[:40]!r}, which is not taken")

    def _stored(
        self, argument: JsonField, name: JsonField, source: Mapping[str, StoredTensor], value: str
    ) -> StoredTensor:
        if argument.fields(["name"])["name"].name() != value:
            raise argument.refuse(f"is not the graph's input {value[:80]!r}")
        stored = source.get(name.name())
        if stored is None:
            raise name.refuse(f"the archive holds no tensor {name.name()[:80]!r}")
        meta = self._metas.get(value)
        if meta is None:
            raise argument.refuse("has no description among tensor_values")
        if meta.dtype != stored.dtype or tuple(str(size) for size, _ in meta.sizes) != tuple(map(str, stored.shape)):
            shape = ", ".join(str(size) for size, _ in meta.sizes)
            raise argument.refuse(
                f"is {meta.dtype}[{shape}] in the graph, and {stored.dtype}{list(stored.shape)} in the archive"
            )
        return stored

    def _given(self, inner: JsonField, value: str, name: str) -> GivenTensor | GivenConstant:
        argument = inner.fields(["arg"])["arg"]
        kind, what = argument.variant()
        if kind in _CONSTANTS:
            return GivenConstant(_CONSTANTS[kind](what))
        if kind in _NUMBERS:
            raise argument.refuse(
                f"the input {name[:80]!r} is a number that may vary; export the model with a fixed number, or a tensor"
            )
        if kind != "as_tensor" or what.fields(["name"])["name"].name() != value:
            raise argument.refuse(f"is not the graph's input {value[:80]!r}")
        meta = self._metas.get(value)
        if meta is None or meta.dtype is None:
            raise argument.refuse("has no description among tensor_values, or an element type that is not taken")
        example = tuple(1 if known is None else known for _, known in meta.sizes)
        bound = _table_size(self._graph, value, self._weights_of_graph())
        return GivenTensor(name, value, meta.dtype, tuple(size for size, _ in meta.sizes), example, bound)

    def _weights_of_graph(self) -> dict[str, int]:
        """Return the first axis of each tensor that may be a table."""
        return {
            name: int(str(meta.sizes[0][0]))
            for name, meta in self._metas.items()
            if len(meta.sizes) == 2 and meta.sizes[0][0].function == "integer"
        }

    def _fixed(self, inner: JsonField) -> GivenConstant:
        members = inner.fields(["name", "value"])
        members["name"].name()
        kind, what = members["value"].variant()
        if kind not in _CONSTANTS:
            raise members["value"].refuse(f"has the form {kind[:40]!r}, which is no constant")
        return GivenConstant(_CONSTANTS[kind](what))

    def _output(self, spec: JsonField, position: int, result: Signature) -> None:
        kind, inner = spec.variant()
        if kind == "user_output":
            inner.fields(["arg"])["arg"].variant()
            result.outputs.append(position)
        elif kind in _MUTATIONS:
            target, field_name = _MUTATIONS[kind]
            members = inner.fields(["arg", field_name])
            value = members["arg"].fields(["name"])["name"].name()
            if self._graph.outputs[position] != Ref(value):
                raise members["arg"].refuse("is not the graph's result at this position")
            result.mutations.append(Mutation(target, self._target(members[field_name], target, result), position))
        elif kind in ("loss_output", "gradient_to_parameter", "gradient_to_user_input"):
            raise spec.refuse(
                "the program holds its own backward pass; export the model alone, the gradients are computed here"
            )
        else:
            raise spec.refuse(f"has the role {kind[:40]!r}, which is not taken")

    def _target(self, name: JsonField, kind: str, result: Signature) -> str:
        """Return the name in the graph of what a mutation writes to."""
        if kind == "input":
            known = {given.value: given.value for given in result.inputs if isinstance(given, GivenTensor)}
        else:
            tensors = result.buffers if kind == "buffer" else result.parameters
            known = {stored.name: value for value, stored in tensors}
        if name.name() not in known:
            raise name.refuse(f"the program has no {kind} {name.name()[:80]!r}")
        return known[name.name()]


def read_calls(field_: JsonField) -> tuple[Tree, Tree, list[str], list[str]]:
    """Read the calls of modules: structures of arguments and results, names of the inputs, paths of all modules."""
    entries = field_.items()
    if not entries:
        raise field_.refuse("is empty; its first entry describes the call of the model")
    paths, trees = [], None
    for entry in entries:
        members = entry.fields(["fqn"], ["signature"])
        path = members["fqn"].text(512)
        paths.append(path.partition("@")[0])
        if path == "" and trees is None and members.get("signature") is not None:
            trees = _read_call(members["signature"])
    if trees is None:
        raise field_.refuse("does not describe the call of the model")
    return (*trees, paths)


def _read_call(signature: JsonField) -> tuple[Tree, Tree, list[str]]:
    members = signature.fields(["inputs", "outputs", "in_spec", "out_spec"], ["forward_arg_names"])
    arguments, results_ = read_tree(members["in_spec"]), read_tree(members["out_spec"])
    if arguments.kind != "tuple" or [child.kind for child in arguments.children] != ["tuple", "dict"]:
        raise members["in_spec"].refuse("is no pair of positional and keyword arguments")
    given = members.get("forward_arg_names")
    known = [item.name() for item in given.items(MAX_INPUTS)] if given is not None and given.value is not None else []
    positional, by_keyword = arguments.children
    names: list[str] = []
    for index, child in enumerate(positional.children):
        names.extend(leaf_names(child, known[index] if index < len(known) else f"input{index}"))
    for key, child in zip(by_keyword.keys, by_keyword.children, strict=True):
        names.extend(leaf_names(child, str(key)))
    return arguments, results_, names


def results(node: Node) -> Iterator[str]:
    """Yield the names of a node's results."""
    for output in node.outputs:
        if isinstance(output, str):
            yield output
        elif output is not None:
            yield from output


def _table_size(graph: Graph, value: str, tables: Mapping[str, int]) -> int | None:
    """Return the rows of the smallest table that a tensor of indices is looked up in."""
    same, sizes = {value}, []
    for node in graph.nodes:
        first = node.arguments[0].value if node.arguments else None
        if node.operator in _PASS_ON and isinstance(first, Ref) and first.name in same:
            same.update(results(node))
        elif node.operator in ("embedding", "embedding_bag") and len(node.arguments) > 1:
            indices = node.arguments[1].value
            if isinstance(indices, Ref) and indices.name in same and isinstance(first, Ref) and first.name in tables:
                sizes.append(tables[first.name])
    return min(sizes, default=None)
