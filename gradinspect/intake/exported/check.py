"""A whole .pt2 file: archive, weights and program, each read by a module of its folder and compared with the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

from gradinspect.contracts.exported.program import Graph, Node, Program, Ref, StoredTensor
from gradinspect.contracts.request.request import Mode
from gradinspect.intake.advice import SNIFFED_BYTES, advice
from gradinspect.intake.archive import Archive, refusal
from gradinspect.intake.exported.fields import JsonField, read_json
from gradinspect.intake.exported.graphs import GraphReader
from gradinspect.intake.exported.signature import Signature, SignatureReader, read_calls
from gradinspect.intake.exported.tensors import Sizes, read_payloads

MAX_MODEL_BYTES = 64 * 2**20  # of model.json; a network of 1,000 layers has about 10 MB
MAX_SIGNS = 6_000_000  # of JSON in it
MAX_CONFIG_BYTES = 32 * 2**20
SCHEMA_MAJOR = 8  # torch 2.5 to 2.13
MAX_RANGE = 2**63 - 1

_PROGRAM = ("graph_module", "opset_version", "range_constraints", "schema_version")
_PROGRAM_MORE = ("verifiers", "torch_version", "guards_code")
_RECORDS = re.compile(
    r"models/[\w.-]{1,128}\.json|data/(?:weights|constants)/(?:(?:weight|tensor|custom_obj|opaque_obj)_\d{1,9}"
    r"|[\w.-]{1,128}_config\.json)|data/sample_inputs/[\w.-]{1,128}\.pt|archive_format|archive_version|byteorder"
    r"|\.data/(?:serialization_id|version)|\.format_version|\.storage_alignment|version|extra/.{1,400}",
    re.ASCII,
)
# Operators that say whether the model was exported in training or evaluation mode, and the argument that says it.
_FLAGS = {
    "batch_norm": "training", "native_batch_norm": "training", "_native_batch_norm_legit": "training",
    "_native_batch_norm_legit_functional": "training", "dropout": "train", "dropout_": "train",
    "feature_dropout": "train", "feature_dropout_": "train", "alpha_dropout": "train", "alpha_dropout_": "train",
    "feature_alpha_dropout": "train", "feature_alpha_dropout_": "train", "native_dropout": "train", "lstm": "train",
    "gru": "train", "rnn_tanh": "train", "rnn_relu": "train", "rrelu": "training", "rrelu_": "training",
}  # fmt: skip
# Classes of torch's modules by the function that takes their weight.
_CLASSES = {
    "linear": "Linear", "conv1d": "Conv1d", "conv2d": "Conv2d", "conv3d": "Conv3d", "embedding": "Embedding",
    "layer_norm": "LayerNorm", "group_norm": "GroupNorm", "rms_norm": "RMSNorm",
}  # fmt: skip
_MODES: dict[str, Mode] = {
    "_batch_norm_with_update": "train", "_batch_norm_with_update_functional": "train", "_batch_norm_no_update": "eval",
    "_native_batch_norm_legit_no_training": "eval",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportedFacts:
    """The facts that a file states about itself.

    Attributes:
        operators: those that its graphs run, sorted.
        nodes: operations in them.
        elements: numbers in its parameters, shared ones once.
        mode: in which it was exported; None where no operator depends on it.
        size_bytes: of the whole file.
    """

    operators: tuple[str, ...]
    nodes: int
    elements: int
    mode: Mode | None
    size_bytes: int


def check_exported(file: BinaryIO) -> ExportedFacts:
    """Check an uploaded file before anything runs it.

    Args:
        file: seekable, at any position.

    Raises:
        ProblemError: `invalid_model` or `unsupported_operator`, with the position in the file.

    Cost: 0.1 s for 1,000 nodes; at most about 20 seconds and 2 GB, whatever the file holds.
    """
    program = read_program(file)
    nodes = list(_nodes(program.graph))
    storages = {stored.start: stored for _, stored in program.parameters}
    return ExportedFacts(
        operators=tuple(sorted({node.target for node in nodes})),
        nodes=len(nodes),
        elements=sum(prod(stored.shape) for stored in storages.values()),
        mode=program.mode,
        size_bytes=file.seek(0, os.SEEK_END),
    )


def read_program(file: BinaryIO) -> Program:
    """Read a program as plain data; nothing is run, unpickled or evaluated, and torch is not imported.

    Raises:
        ProblemError: as `check_exported`.
    """
    file.seek(0)
    hint = advice(file.read(SNIFFED_BYTES))
    if hint is not None:
        raise refusal(hint)
    archive = Archive(file)
    name = _model_name(archive)
    sizes = Sizes()
    document = read_json(archive, f"models/{name}.json", limit=MAX_MODEL_BYTES, most_signs=MAX_SIGNS)
    members = document.fields(_PROGRAM, _PROGRAM_MORE)
    _check_version(members)
    weights = _payloads(archive, "data/weights", f"{name}_weights_config.json", sizes)
    constants = _payloads(archive, "data/constants", f"{name}_constants_config.json", sizes)
    module = members["graph_module"].fields(
        ["graph", "signature", "module_call_graph"], ["metadata", "treespec_namedtuple_fields"]
    )
    reader = GraphReader(sizes)
    graph, metas = reader.read(module["graph"])
    input_tree, output_tree, names, paths = read_calls(module["module_call_graph"])
    signature = SignatureReader(graph, metas, weights, constants).read(module["signature"], names)
    if len(signature.outputs) != output_tree.leaves:
        raise module["signature"].refuse(
            f"has {len(signature.outputs)} results; their structure has {output_tree.leaves} leaves"
        )
    used = {stored.name for _, stored in signature.parameters}
    unused = [("", stored) for stored in weights.values() if stored.requires_grad and stored.name not in used]
    return Program(
        graph=graph,
        parameters=(*signature.parameters, *unused),
        buffers=tuple(signature.buffers),
        constants=tuple(signature.constants),
        inputs=tuple(signature.inputs),
        outputs=tuple(signature.outputs),
        mutations=tuple(signature.mutations),
        input_tree=input_tree,
        output_tree=output_tree,
        ranges=_ranges(members["range_constraints"], sizes),
        kinds=_kinds(reader.places.kinds | _used_by_others(graph, signature, reader.places.kinds), paths),
        mode=_mode(graph),
        torch_version=members["torch_version"].text(64) if "torch_version" in members else "",
    )


def _model_name(archive: Archive) -> str:
    """Check the archive's entries; return the name of its one model."""
    paths = archive.paths()
    hint = other_archive(paths)
    if hint is not None:
        raise refusal(hint)
    for path in paths:
        if _RECORDS.fullmatch(path) is None:
            raise refusal(f"the archive holds {path[:80]!r}, which torch.export.save does not write")
    models = [path for path in paths if path.startswith("models/")]
    if len(models) != 1:
        raise refusal(f"the archive holds {len(models)} models; save one with torch.export.save")
    if archive.find("byteorder") is not None and archive.read("byteorder", limit=16) != b"little":
        raise refusal("byteorder: the numbers are not little-endian; save the file on a little-endian machine")
    if archive.find("archive_format") is not None and archive.read("archive_format", limit=16) != b"pt2":
        raise refusal("archive_format: is not pt2")
    return models[0].removeprefix("models/").removesuffix(".json")


def is_exported(paths: list[str]) -> bool:
    """Check by its entries whether an archive is a .pt2 file, of whatever release."""
    return other_archive(paths) is not None or any(path.startswith("models/") for path in paths)


def other_archive(paths: list[str]) -> str | None:
    """Say what kind of .pt2 archive is not read, and what to do; None for one that may be."""
    if any(path.endswith("exported_program.json") for path in paths):
        return (
            "the file was written by torch.export of torch 2.7 or older, which pickles the weights; export the model "
            "again with torch 2.8 or newer"
        )
    if any(path.startswith(("data/aotinductor/", "executorch/", "mtia/")) for path in paths):
        return (
            "the file holds a compiled model; save the exported program itself with torch.export.save before it is "
            "compiled"
        )
    return None


def _check_version(members: dict[str, JsonField]) -> None:
    version = members["schema_version"].fields(["major", "minor"])
    major = version["major"].integer(0)
    version["minor"].integer(0)
    if major != SCHEMA_MAJOR:
        raise version["major"].refuse(
            f"the file has schema version {major}; version {SCHEMA_MAJOR} is read, which torch 2.8 to 2.13 write"
        )
    for name, number in members["opset_version"].members(64).items():
        if not name.isprintable():
            raise number.refuse("is no version of operators")
        number.integer(0)
    for list_name in ("verifiers", "guards_code"):
        # Guards are Python text; they are neither evaluated nor needed, because shapes are checked against symbols.
        for item in members[list_name].items() if list_name in members else ():
            item.text(65_536)


def _payloads(archive: Archive, folder: str, config: str, sizes: Sizes) -> dict[str, StoredTensor]:
    path = f"{folder}/{config}"
    if archive.find(path) is None:
        return {}
    document = read_json(archive, path, limit=MAX_CONFIG_BYTES, most_signs=MAX_SIGNS)
    return read_payloads(archive, folder, document, sizes)


def _ranges(field: JsonField, sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Read the ranges of symbols; those of expressions follow from them."""
    ranges = {}
    for name, item in field.members(10_000).items():
        members = item.fields(["min_val", "max_val"])
        low = 0 if members["min_val"].value is None else members["min_val"].integer()
        high = MAX_RANGE if members["max_val"].value is None else members["max_val"].integer()
        if low > high:
            raise item.refuse(f"the range from {low} to {high} is empty")
        expression = sizes.expression(JsonField(name, item.file, item.pointer))
        if expression.name:
            ranges[expression.name] = (low, high)
    return ranges


def _kinds(found: Mapping[str, str], paths: list[str]) -> dict[str, str]:
    """Return the class of each module, outer ones first; of a module without operations it is not known."""
    kinds = {path: found.get(path, "") for path in paths}
    return kinds | {path: kind for path, kind in found.items() if path not in kinds}


def _used_by_others(graph: Graph, signature: Signature, found: Mapping[str, str]) -> dict[str, str]:
    """Return the classes of modules that are never called but whose weight a known function takes, as in Swin."""
    owners = {
        value: stored.name.removesuffix(".weight")
        for value, stored in signature.parameters
        if stored.name.endswith(".weight")
    }
    kinds = {}
    for node in _nodes(graph):
        kind = _CLASSES.get(node.operator)
        weight = next((argument.value for argument in node.arguments if argument.name == "weight"), None)
        path = owners.get(weight.name, "") if isinstance(weight, Ref) else ""
        if kind is not None and path and path not in found:
            kinds[path] = kind
    return kinds


def _mode(graph: Graph) -> Mode | None:
    modes = set()
    for node in _nodes(graph):
        if node.operator in _MODES:
            modes.add(_MODES[node.operator])
        flag = _FLAGS.get(node.operator)
        for argument in node.arguments:
            if argument.name == flag and isinstance(argument.value, bool):
                modes.add("train" if argument.value else "eval")
            elif argument.name == "dropout_p" and isinstance(argument.value, float) and argument.value > 0:
                modes.add("train")
    return "train" if "train" in modes else "eval" if modes else None


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for argument in node.arguments:
            if isinstance(argument.value, Graph):
                yield from _nodes(argument.value)
