"""The changes that can be made to a module, one at a time."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
NOT_MUTATED = (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom)  # messages, and declarations without behaviour


@dataclass(frozen=True)
class Mutant:
    """One change to one module.

    Attributes:
        path: the module's file, relative to the repository.
        line: line of the change, from 1.
        index: position of the change among all changes of the module.
        before: the source line, stripped.
        change: what is changed, in words.
        occurrence: 1 for the first change of the module with this text, 2 for the second …
    """

    path: str
    line: int
    index: int
    before: str
    change: str
    occurrence: int = 1

    @property
    def key(self) -> str:
        """Identify the change by its text, so that edits elsewhere in the file do not rename it."""
        return f"{self.path}: {self.before}: {self.change}" + (f" ({self.occurrence})" if self.occurrence > 1 else "")


def mutants(path: str, source: str) -> list[Mutant]:
    r"""List every change that can be made to a module.

    >>> [mutant.change for mutant in mutants("a.py", "def f(x):\n    return x < 1")]
    ['< becomes <=', '1 becomes 2']
    """
    lines = source.splitlines()
    seen: Counter[tuple[str, str]] = Counter()
    result: list[Mutant] = []
    for index, (node, change, _) in enumerate(_changes(ast.parse(source))):
        before = lines[node.lineno - 1].strip()
        seen[before, change] += 1
        result.append(Mutant(path, node.lineno, index, before, change, seen[before, change]))
    return result


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """Return the module with one change made."""
    tree = ast.parse(source)
    for index, (node, _, replacement) in enumerate(_changes(tree)):
        if index == mutant.index:
            changed = _Replace(node, replacement).visit(tree)
            assert isinstance(changed, ast.Module)
            return ast.fix_missing_locations(changed)
    raise IndexError(f"{mutant.path} has no change {mutant.index}")


class _Replace(ast.NodeTransformer):
    """Replace one node, known by identity."""

    def __init__(self, node: ast.AST, replacement: ast.AST) -> None:
        self.node = node
        self.replacement = replacement

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.node:
            return ast.copy_location(self.replacement, node)
        self.generic_visit(node)
        return node


Change = tuple[ast.expr | ast.stmt, str, ast.AST]


def _changes(tree: ast.AST) -> Iterator[Change]:
    """Yield the node, a description and the replacement of every change, in source order."""
    for node in _behaviour(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            other = COMPARISONS[type(node.ops[0])]()
            yield node, f"{_sign(node.ops[0])} becomes {_sign(other)}", _with(node, ops=[other])
        elif isinstance(node, ast.BoolOp):
            swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, f"{_sign(node.op)} becomes {_sign(swapped)}", _with(node, op=swapped)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "not is dropped", deepcopy(node.operand)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            operator = ARITHMETIC[type(node.op)]()
            yield node, f"{_sign(node.op)} becomes {_sign(operator)}", _with(node, op=operator)
        elif isinstance(node, ast.Constant):
            yield from _constants(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            name = CALLS[node.func.id]
            yield node, f"{node.func.id} becomes {name}", _with(node, func=ast.Name(id=name, ctx=ast.Load()))
        elif isinstance(node, ast.IfExp):
            yield node, "the alternatives change places", _with(node, body=node.orelse, orelse=node.body)
        elif isinstance(node, ast.If):
            inverted = ast.UnaryOp(op=ast.Not(), operand=node.test)
            yield node, "the condition is inverted", _with(node, test=inverted)
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield node, "the statement is deleted", ast.Pass()


def _constants(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield node, f"{value} becomes {not value}", ast.Constant(not value)
    elif isinstance(value, int):
        yield node, f"{value} becomes {value + 1}", ast.Constant(value + 1)
    elif isinstance(value, float):
        doubled = value * 2 if value else 1.0
        yield node, f"{value!r} becomes {doubled!r}", ast.Constant(doubled)


def _behaviour(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes with behaviour: no annotations, decorators, messages or type-checking blocks."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue  # `zip(…, strict=True)` states what holds anyway; no input of a caller can make it matter
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, NOT_MUTATED) or _is_declaration(child):
                continue
            yield child
            yield from _behaviour(child)


def _is_declaration(node: ast.AST) -> bool:
    """Return whether a node only declares types, fields of documents or exports, and so has no behaviour."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        is_export = isinstance(target, ast.Name) and target.id == "__all__"
        return is_export or (isinstance(node.value, ast.Subscript) and ast.unparse(node.value).startswith("Literal"))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("TypeVar", "Field")


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Copy a node with some fields replaced."""
    copied = deepcopy(node)
    for name, value in fields.items():
        setattr(copied, name, deepcopy(value))
    return copied


_SIGNS = {
    "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!=", "Is": "is", "IsNot": "is not",
    "In": "in", "NotIn": "not in", "And": "and", "Or": "or", "Add": "+", "Sub": "-", "Mult": "*", "Div": "/",
    "Pow": "**", "FloorDiv": "//", "Mod": "%", "BitAnd": "&", "BitOr": "|",
}  # fmt: skip


def _sign(operator: ast.AST) -> str:
    return _SIGNS[type(operator).__name__]
