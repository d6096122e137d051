"""Is this a TorchScript file as torch.jit.save writes them, and does it ask for nothing but a network's arithmetic?

Archive, pickles and code are each read by a separate module; here they are compared with one another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

from gradinspect.intake.advice import SNIFFED_BYTES, advice
from gradinspect.intake.archive import Archive, refusal
from gradinspect.intake.exported import is_exported
from gradinspect.intake.opcodes import MAX_OPCODES, STORAGE_BYTES, PickleNode, PickleValue, read_pickle
from gradinspect.intake.source import (
    MAX_FILE_TOKENS,
    MAX_SOURCE_BYTES,
    MAX_TOKENS,
    Facts,
    check_attributes,
    count_tokens,
    read_source,
)

MAX_PICKLE_BYTES = 32 * 2**20
MAX_DEBUG_BYTES = 8 * 2**20
MAX_DEBUG_OPCODES = 1_500_000  # of all files together; about three seconds
MAX_CODE_BYTES = 16 * 2**20  # of all files together
MAX_TYPE_NESTING = 20
MAX_AXES = 64  # torch's own limit

_RECORDS = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/(?:serialization_id|version)"
    r"|traced_inputs\.pkl|(data|constants|traced_inputs)/\d{1,9}|code/[^/].*\.py(\.debug_pkl)?|extra/.+"
)


@dataclass(frozen=True, slots=True)
class TorchScriptFacts:
    """The facts that a file states about itself.

    Attributes:
        class_name: of the module that was saved.
        operators: those that its code names, sorted.
        tensors: tensors in it, shared ones once.
        elements: numbers stored, shared ones once.
        size_bytes: of the whole file.
    """

    class_name: str
    operators: tuple[str, ...]
    tensors: int
    elements: int
    size_bytes: int


def check_torchscript(file: BinaryIO) -> TorchScriptFacts:
    """Check an uploaded file before anything loads it.

    Args:
        file: seekable, at any position.

    Raises:
        ProblemError: `invalid_model` or `unsupported_operator`, with the position in the file.

    Cost: some 10 ms for most models; at most about six seconds and 200 MB, whatever the file holds.
    """
    file.seek(0)
    hint = advice(file.read(SNIFFED_BYTES))
    if hint is not None:
        raise refusal(hint)
    archive = Archive(file)
    _check_records(archive)
    root, storages, _ = read_pickle(archive.read("data.pkl", limit=MAX_PICKLE_BYTES), "data.pkl")
    if not isinstance(root, PickleNode) or root.kind != "object":
        raise refusal("data.pkl holds no module; save a scripted or traced module with torch.jit.save")
    constants, their_storages, _ = read_pickle(archive.read("constants.pkl", limit=MAX_PICKLE_BYTES), "constants.pkl")
    elements = _check_storages(archive, "data", storages) + _check_storages(archive, "constants", their_storages)
    tensors = _check_values(root, "data.pkl") + _check_values(constants, "constants.pkl")
    if archive.find("traced_inputs.pkl") is not None:
        # The example's shapes, which torch reads only when asked to restore them; their records are left empty.
        read_pickle(archive.read("traced_inputs.pkl", limit=MAX_PICKLE_BYTES), "traced_inputs.pkl")
    operators = _check_code(archive)
    return TorchScriptFacts(
        class_name=root.name.split(" ")[-1][:256],
        operators=tuple(sorted(operators)),
        tensors=tensors,
        elements=elements,
        size_bytes=file.seek(0, os.SEEK_END),
    )


def _check_records(archive: Archive) -> None:
    paths = archive.paths()
    hint = other_format(paths)
    if hint is not None:
        raise refusal(hint)
    for path in paths:
        if not _RECORDS.fullmatch(path):
            raise refusal(f"the archive holds {path[:80]!r}, which torch.jit.save does not write")
        entry = archive.find(path)
        if entry is not None and entry.deflated and not path.startswith("code/"):
            raise refusal(f"{path} is compressed; torch.jit.save compresses code only")


def other_format(paths: Iterable[str]) -> str | None:
    """Say what kind of archive this is instead, and what to do; None for a TorchScript file."""
    names = set(paths)
    if {"archive_format", "archive_version"} & names or is_exported(sorted(names)):
        return (
            "the file was written by torch.export.save (.pt2): it is an exported program and no TorchScript; give it "
            "as `exported`"
        )
    if "bytecode.pkl" in names:
        return "the file was written for the lite interpreter; write it again with torch.jit.save"
    if "data.pkl" in names and not any(name.startswith("code/") for name in names):
        return (
            "the file was written by torch.save: a pickle, which can run any code when it is loaded; upload "
            "torch.export.export(model, inputs) saved with torch.export.save (.pt2), or a spec with its weights as "
            "safetensors"
        )
    if "model.json" in names or "attributes.pkl" in names:
        return "the file was written by torch 1.3 or older; load it there and write it again with torch.jit.save"
    if not {"data.pkl", "constants.pkl"} <= names:
        return "the archive is no TorchScript file: it holds no data.pkl and constants.pkl"
    return None


def _check_storages(archive: Archive, folder: str, storages: list[PickleNode]) -> int:
    """Hold each storage's record against what its pickle says, and count the elements."""
    storages_by_key: dict[str, tuple[str, int]] = {}
    for node in storages:
        word, kind, key, device, numel = node.items
        name = kind.name.removeprefix("torch ") if isinstance(kind, PickleNode) and kind.kind == "global" else ""
        where = f"{folder}.pkl (byte {node.offset})"
        if word != "storage" or name not in STORAGE_BYTES or not isinstance(key, str) or not isinstance(device, str):
            raise refusal(f"{where} names a storage in a form that torch does not write")
        if not isinstance(numel, int) or isinstance(numel, bool) or not 0 <= numel < 2**48:
            raise refusal(f"{where} names a storage of {numel!r} elements")
        if storages_by_key.setdefault(key, (name, numel)) != (name, numel):
            raise refusal(f"{where} describes the storage {key[:20]!r} in two ways")
        entry = archive.find(f"{folder}/{key}")
        if entry is None:
            raise refusal(f"the archive holds no {folder}/{key[:20]}, which {where} names")
        expected = numel * STORAGE_BYTES[name]
        if entry.size_bytes != expected:
            raise refusal(
                f"{folder}/{key[:20]} has {entry.size_bytes} bytes, but {where} says {numel} elements of {name}, "
                f"which are {expected}; the file is cut off or was changed"
            )
    return sum(numel for _, numel in storages_by_key.values())


def _check_values(root: PickleValue, name: str) -> int:
    """Check each tensor's view of its storage and each type tag; count the tensors."""
    pending: list[PickleValue] = [root]
    seen: set[int] = set()
    tensors = 0
    while pending:
        node = pending.pop()
        if not isinstance(node, PickleNode) or id(node) in seen:
            continue
        seen.add(id(node))
        pending.extend(node.items)
        if node.kind != "call":
            continue
        if node.name == "torch._utils _rebuild_tensor_v2":
            _check_tensor(node, f"{name} (byte {node.offset})")
            tensors += 1
        elif node.name == "torch.jit._pickle restore_type_tag":
            tag = node.items[1] if len(node.items) == 2 else None
            if not isinstance(tag, str) or len(tag) > 4096 or tag.count("[") + tag.count("(") > MAX_TYPE_NESTING:
                raise refusal(f"{name} (byte {node.offset}) holds a type that nests too deep or is none")
    return tensors


def _check_tensor(node: PickleNode, where: str) -> None:
    if len(node.items) not in (6, 7):
        raise refusal(f"{where} describes a tensor in a form that torch does not write")
    storage, offset, size, stride = node.items[:4]
    shape, strides = _numbers(size), _numbers(stride)
    if not isinstance(storage, PickleNode) or storage.kind != "storage" or shape is None or strides is None:
        raise refusal(f"{where} describes a tensor in a form that torch does not write")
    if not isinstance(offset, int) or offset < 0 or len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise refusal(f"{where} describes a tensor in a form that torch does not write")
    numel = storage.items[4]
    last = offset + sum((count - 1) * step for count, step in zip(shape, strides, strict=True))
    if prod(shape) and (not isinstance(numel, int) or last >= numel):
        raise refusal(f"{where} describes a tensor that reaches beyond its storage of {numel!r} elements")


def _numbers(value: PickleValue) -> list[int] | None:
    if not isinstance(value, PickleNode) or value.kind != "tuple" or len(value.items) > MAX_AXES:
        return None
    numbers = [item for item in value.items if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
    return numbers if len(numbers) == len(value.items) else None


def _check_code(archive: Archive) -> set[str]:
    """Check the code, file by file, so that only one tree is alive; give the operators."""
    code = [entry for path in archive.paths() if path.endswith(".py") and (entry := archive.find(path)) is not None]
    if sum(entry.size_bytes for entry in code) > MAX_CODE_BYTES:
        raise refusal(f"the code has more than {MAX_CODE_BYTES} bytes; the model is too large to be inspected")
    left, opcodes_left = MAX_TOKENS, MAX_DEBUG_OPCODES
    files: list[Facts] = []
    for path in archive.paths():
        if path.endswith(".debug_pkl"):
            limit = min(MAX_OPCODES, opcodes_left)
            opcodes_left -= read_pickle(archive.read(path, limit=MAX_DEBUG_BYTES), path, limit=limit).opcodes
        elif path.endswith(".py"):
            text = archive.read(path, limit=MAX_SOURCE_BYTES)
            left -= count_tokens(text, path, min(left, MAX_FILE_TOKENS))
            files.append(read_source(text, path))
    declared = {name for facts in files for name in facts.declared}
    for facts in files:
        check_attributes(facts, declared)
    return {operator for facts in files for operator in facts.operators}
