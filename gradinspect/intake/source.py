"""Read the code of a TorchScript file without compiling it: how deep it nests, and which operators it names.

TorchScript's serialised code is a subset of Python. Before Python's own parser sees a file, its characters, strings,
nesting and length are checked, so that both parsers read the same and neither runs out of stack or memory.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradinspect.contracts.problems import ProblemError
from gradinspect.intake.archive import refusal
from gradinspect.intake.operators import (
    ATEN,
    BUILTINS,
    FORBIDDEN_ATTRIBUTES,
    FORBIDDEN_BUILTINS,
    OPERATORS,
    PROPERTIES,
)

MAX_SOURCE_BYTES = 2 * 2**20  # of one file; a traced model of thousands of layers stays below
MAX_TOKENS = 400_000  # of all files together: about two seconds, and 100 MB while one file is looked at
MAX_BRACKETS = 60
MAX_INDENT = 95  # levels; Python's own limit is 100
MAX_TREE_DEPTH = 300

_TOKEN = re.compile(
    r"""(?P<indent>^\ *)|(?P<string>"(?:[^"\\\n]|\\[\\'"abfnrtv0-7x])*"|'(?:[^'\\\n]|\\[\\'"abfnrtv0-7x])*')"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<odd>[\\#`$?"'])|(?P<word>\w+)|(?P<space>[\ \n]+)|(?P<sign>.)""",
    re.MULTILINE,
)
_ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
_CONSTANT = re.compile(r"c\d+")
_GRAMMAR = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.AugAssign,
    ast.Expr, ast.If, ast.For, ast.While, ast.With, ast.withitem, ast.Return, ast.Pass, ast.Break, ast.Continue,
    ast.Assert, ast.Raise, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Constant,
    ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Starred,
    ast.ListComp, ast.comprehension, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """One file of code: its path in the archive, and its tree."""

    path: str
    tree: ast.Module


def count_tokens(text: bytes, path: str, left: int) -> int:
    """Check a file before it is parsed, and count its tokens.

    Raises:
        ProblemError: `invalid_model`, with the file and the line.
    """
    if not re.fullmatch(rb"[\x20-\x7e\n]*", text):
        raise refusal(f"{path} holds characters that TorchScript code does not have")
    depth, count, before = 0, 0, ""
    source = text.decode("ascii")
    for found in _TOKEN.finditer(source):
        kind = found.lastgroup or ""
        count += kind not in ("space", "indent")
        if kind == "indent" and found.end() - found.start() > 2 * MAX_INDENT:
            raise _at(path, source, found.start(), f"is indented deeper than {MAX_INDENT} levels")
        if kind == "open":
            depth += 1
            if depth > MAX_BRACKETS:
                raise _at(path, source, found.start(), f"nests more than {MAX_BRACKETS} brackets")
        depth -= kind == "close"
        if kind == "odd" or (kind == "string" and before in ("word", "string")):
            raise _at(path, source, found.start(), "holds what TorchScript's printer does not write")
        if count > left:
            raise refusal(
                f"the code has more than {MAX_TOKENS} words and signs; the model is too large to be inspected"
            )
        before = kind
    return count


def parse(text: bytes, path: str) -> Source:
    """Parse a file whose tokens were checked.

    Raises:
        ProblemError: `invalid_model` when it is not TorchScript's subset of Python.
    """
    try:
        tree = ast.parse(text, filename="<code>")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise refusal(f"{path}{line} is not TorchScript code") from None
    _check_grammar(tree, path)
    return Source(path, tree)


def declared_names(tree: ast.Module) -> set[str]:
    """Names that a file's classes give to fields and methods."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    found.add(part.target.id)
                elif isinstance(part, ast.Assign):
                    found |= {key for target in part.targets for key in _target_names(target)}
    return found


def check_operators(source: Source, declared: set[str]) -> set[str]:
    """Hold every operator, method and builtin that a file names against the allow-list.

    Args:
        source: the file.
        declared: fields and methods of all classes of the archive.

    Returns:
        The operators, as `aten::linear`.

    Raises:
        ProblemError: `unsupported_operator` with the operator, the file and the line; `invalid_model` for
            `__setstate__` and `__getstate__`.
    """
    seen: set[str] = set()
    for function in [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]:
        if function.name in ("__setstate__", "__getstate__"):
            raise refusal(
                f"{source.path}, line {function.lineno} defines {function.name}, which runs while the file is loaded; "
                "export the model without quantised or custom modules"
            )
    roots = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    for node, local in _with_locals(source.tree):
        if isinstance(node, ast.Attribute):
            seen |= _attribute(node, source.path, declared)
        elif isinstance(node, ast.Name) and node.id in _ROOTS and id(node) not in roots:
            raise refusal(f"{source.path}, line {node.lineno} uses {node.id!r} as a value")
        elif isinstance(node, ast.Call):
            _call(node, source.path, local, declared)
    return seen


def _attribute(node: ast.Attribute, path: str, declared: set[str]) -> set[str]:
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    chain = parts[::-1]
    root = inner.id if isinstance(inner, ast.Name) else ""
    if root == "__torch__":
        if chain[:2] == ["torch", "classes"]:
            raise unsupported(f"__torch__.{'.'.join(chain)}", path, node)
        return set()
    if root == "CONSTANTS":
        if len(chain) != 1 or not _CONSTANT.fullmatch(chain[0]):
            raise refusal(f"{path}, line {node.lineno} names the constant {chain[0][:80]!r}")
        return set()
    if root in ("torch", "ops"):
        namespace = ["aten", *chain] if root == "torch" else chain
        if len(namespace) < 2:
            return set()  # `ops.prim`, the inner part of `ops.prim.dtype`
        operator = "::".join((namespace[0], ".".join(namespace[1:])))
        if operator not in OPERATORS:
            raise unsupported(operator, path, node)
        return {operator}
    _value_attribute(node.attr, path, node, declared)
    return set()


def _value_attribute(name: str, path: str, node: ast.expr, declared: set[str]) -> None:
    """A field, a method of the file's own classes, or an operator written as a method."""
    known = name in declared or name in ATEN or name in PROPERTIES
    if name in FORBIDDEN_ATTRIBUTES or not known:
        raise unsupported(f"aten::{name[:80]}", path, node)


def _call(node: ast.Call, path: str, local: set[str], declared: set[str]) -> None:
    function = node.func
    if isinstance(function, ast.Attribute):
        return
    if not isinstance(function, ast.Name):
        raise refusal(f"{path}, line {node.lineno} calls something that has no name")
    if function.id in FORBIDDEN_BUILTINS or (function.id not in BUILTINS and function.id not in local):
        raise unsupported(function.id[:80], path, node)
    if function.id in ("getattr", "hasattr"):
        name = node.args[1] if len(node.args) > 1 else None
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            raise refusal(f"{path}, line {node.lineno} computes the name of an attribute")
        _value_attribute(name.value, path, node, declared)


def _with_locals(tree: ast.Module) -> Iterator[tuple[ast.AST, set[str]]]:
    """Every node, with the names that its function assigns."""
    pending: list[tuple[ast.AST, set[str]]] = [(tree, set())]
    while pending:
        node, local = pending.pop()
        yield node, local
        if isinstance(node, ast.FunctionDef):
            local = {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
            stored = (part for part in ast.walk(node) if isinstance(part, ast.Name))
            local |= {part.id for part in stored if isinstance(part.ctx, ast.Store)}
        pending.extend((child, local) for child in ast.iter_child_nodes(node))


def _target_names(target: ast.expr) -> set[str]:
    """`x = …` in a class, and `__annotations__["0"] = …`."""
    if isinstance(target, ast.Name):
        return {target.id}
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return {str(target.slice.value)}
    return set()


def _check_grammar(tree: ast.Module, path: str) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_TREE_DEPTH):
        for node in level:
            if not isinstance(node, _GRAMMAR) or getattr(node, "decorator_list", None):
                line = getattr(node, "lineno", "?")
                raise refusal(f"{path}, line {line} holds {type(node).__name__}, which TorchScript code does not have")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise refusal(f"{path} nests deeper than {MAX_TREE_DEPTH} levels")


def unsupported(operator: str, path: str, node: ast.expr) -> ProblemError:
    """Make the error of an operator that is not allowed."""
    return ProblemError("unsupported_operator", f"{operator} in {path}, line {node.lineno}")


def _at(path: str, source: str, position: int, what: str) -> ProblemError:
    return refusal(f"{path}, line {source.count(chr(10), 0, position) + 1} {what}")
