"""Structures of arguments and results: tuples, lists, dicts, and classes of the author's by their fields."""

from __future__ import annotations

from collections.abc import Iterator

from gradinspect.contracts.exported.program import Tree
from gradinspect.contracts.problems import ProblemError
from gradinspect.intake.exported.fields import JsonField, parse_field

MAX_SPEC = 2**20
MAX_LEAVES = 65_536
_VERSION = 1
_KINDS = {
    "builtins.tuple": "tuple", "torch.Size": "tuple", "builtins.list": "list", "collections.deque": "list",
    "torch.fx.immutable_collections.immutable_list": "list", "builtins.dict": "dict", "collections.OrderedDict": "dict",
    "collections.defaultdict": "dict", "torch.fx.immutable_collections.immutable_dict": "dict",
}  # fmt: skip


def read_tree(field: JsonField) -> Tree:
    """Read a structure, which is a JSON text in a JSON document.

    Raises:
        ProblemError: `invalid_model`.
    """
    try:
        document = parse_field(field.text(MAX_SPEC).encode(), f"{field.file}, {field.pointer}", most_signs=MAX_SPEC)
        version, root = document.items(2)
    except (ProblemError, ValueError):
        raise field.refuse("is no structure of arguments as torch writes it") from None
    version.integer(_VERSION, _VERSION)
    tree = _tree(root)
    if tree.leaves > MAX_LEAVES:
        raise field.refuse(f"has {tree.leaves} leaves; at most {MAX_LEAVES} are taken")
    return tree


def leaf_names(tree: Tree, prefix: str) -> Iterator[str]:
    """Yield the name of each leaf: the name of the argument, then keys and indices, joined by dots."""
    if tree.kind == "leaf":
        yield prefix
        return
    keys = tree.keys or tuple(range(len(tree.children)))
    for key, child in zip(keys, tree.children, strict=True):
        yield from leaf_names(child, f"{prefix}.{key}" if prefix else str(key))


def _tree(field: JsonField) -> Tree:
    members = field.fields(["type", "context", "children_spec"])
    children = tuple(_tree(item) for item in members["children_spec"].items(MAX_LEAVES))
    if members["type"].value is None:
        if children:
            raise field.refuse("is a leaf with children")
        return Tree("leaf")
    kind = _KINDS.get(members["type"].name(), "")
    keys = _keys(members["context"])
    if kind == "dict" and len(keys) != len(children):
        raise members["context"].refuse("has another number of keys than children")
    if not kind:
        kind = "dict" if children and len(keys) == len(children) else "tuple"
    return Tree(kind, keys if kind == "dict" else (), children)


def _keys(field: JsonField) -> tuple[str | int, ...]:
    """Return the list of keys in a context; nothing where it is another document."""
    if not isinstance(field.value, str):
        return ()
    try:
        document = parse_field(field.text(MAX_SPEC).encode(), field.file, most_signs=MAX_SPEC)
    except ProblemError:
        raise field.refuse("is no JSON") from None
    keys = document.value
    if isinstance(keys, list) and len(keys) == 2 and isinstance(keys[1], list):
        keys = keys[1]  # of a defaultdict: its factory, and the keys
    if not isinstance(keys, list) or len(set(map(repr, keys))) != len(keys):
        return ()
    return tuple(key if isinstance(key, int) else str(key)[:256] for key in keys if isinstance(key, str | int))
