"""Read the code of a TorchScript file without compiling it: how deep it nests, and which operators it names.

TorchScript's serialised code is a subset of Python. Before Python's own parser sees a file, its characters, strings,
nesting and length are checked, so that both parsers read the same and neither runs out of stack or memory.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

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
MAX_FILE_TOKENS = 200_000  # of one file, whose tree then takes 150 MB
MAX_TOKENS = 400_000  # of all files together: about two seconds
MAX_BRACKETS = 60
MAX_INDENT = 95  # levels; Python's own limit is 100
MAX_TREE_DEPTH = 300

_TOKEN = re.compile(
    r"""(?P<indent>^\ +)|(?P<string>"(?:[^"\\\n]|\\[\\'"abfnrtv0-7x])*"|'(?:[^'\\\n]|\\[\\'"abfnrtv0-7x])*')"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<odd>[\\#`$?"'])|(?P<word>\w+)|(?P<space>\ +|\n)|(?P<sign>.)""",
    re.MULTILINE,
)
_ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
_READ_ATTRIBUTES = frozenset({"getattr", "hasattr"})
_CONSTANT = re.compile(r"c\d+")
_GRAMMAR = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.AugAssign,
    ast.Expr, ast.If, ast.For, ast.While, ast.With, ast.withitem, ast.Return, ast.Pass, ast.Break, ast.Continue,
    ast.Assert, ast.Raise, ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Constant,
    ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Starred,
    ast.ListComp, ast.comprehension, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip


@dataclass(slots=True)
class Facts:
    """The operators and names in one file of code.

    Attributes:
        path: in the archive.
        declared: fields and methods of its classes.
        operators: `aten::linear`, `prim::dtype`, all of them allowed.
        attributes: names used on values (fields, methods, operators written as methods) and the line of the first use.
    """

    path: str
    declared: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    attributes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Function:
    """Names that a function assigns, and bare names that it calls with their lines."""

    stored: set[str] = field(default_factory=set)
    called: dict[str, int] = field(default_factory=dict)


def count_tokens(text: bytes, path: str, left: int) -> int:
    """Check a file before it is parsed, and count its tokens.

    Raises:
        ProblemError: `invalid_model`, with the file and the line.
    """
    if not re.fullmatch(rb"[\x20-\x7e\n]*", text):
        raise refusal(f"{path} holds characters that TorchScript code does not have")
    depth, count, before = 0, 0, ""
    source = text.decode("ascii")
    for token in _TOKEN.finditer(source):
        kind = token.lastgroup or ""
        count += kind not in ("space", "indent")
        if kind == "indent" and token.end() - token.start() > 2 * MAX_INDENT:
            raise _at(path, source, token.start(), f"is indented deeper than {MAX_INDENT} levels")
        if kind == "open":
            depth += 1
            if depth > MAX_BRACKETS:
                raise _at(path, source, token.start(), f"nests more than {MAX_BRACKETS} brackets")
        depth -= kind == "close"
        if kind == "odd" or (kind == "string" and before in ("word", "string")):
            raise _at(path, source, token.start(), "holds what TorchScript's printer does not write")
        if count > left:
            raise refusal(
                f"{path} has too many words and signs ({left} were left); the model is too large to be inspected"
            )
        before = kind
    return count


def read_source(text: bytes, path: str) -> Facts:
    """Parse a file whose tokens were checked, and hold what it names against the allow-list.

    Raises:
        ProblemError: `invalid_model` when it is not TorchScript's subset of Python or defines `__setstate__` or
            `__getstate__`, `unsupported_operator` with the operator, the file and the line.
    """
    try:
        tree = ast.parse(text, filename="<code>")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise refusal(f"{path}{line} is not TorchScript code") from None
    return _Reader(path).read(tree)


def check_attributes(facts: Facts, declared: set[str]) -> None:
    """Refuse attributes that are neither fields or methods of the archive's classes nor allowed operators.

    Args:
        facts: of one file.
        declared: fields and methods of all files.

    Raises:
        ProblemError: `unsupported_operator`, as `read_source`.
    """
    for name, line in facts.attributes.items():
        known = name in declared or name in ATEN or name in PROPERTIES
        if name in FORBIDDEN_ATTRIBUTES or not known:
            raise _unsupported(f"aten::{name[:80]}", facts.path, line)


class _Reader:
    """One walk through a file's tree."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.facts = Facts(path)

    def read(self, tree: ast.Module) -> Facts:
        outside = _Function()
        functions = [outside]
        pending: list[tuple[ast.AST, int, _Function]] = [(tree, 0, outside)]
        while pending:
            node, depth, function = pending.pop()
            if not isinstance(node, _GRAMMAR) or depth > MAX_TREE_DEPTH:
                raise self.misplaced(node, depth)
            if isinstance(node, ast.Attribute):
                inner = self.attribute(node)
                if inner is not None:
                    pending.append((inner, depth + 1, function))
                continue
            if isinstance(node, ast.FunctionDef):
                self.define(node)
                function = _Function({arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)})
                functions.append(function)
            elif isinstance(node, ast.Name):
                self.name(node, function)
            elif isinstance(node, ast.Call):
                self.call(node, function)
            elif isinstance(node, ast.ClassDef):
                self.declare(node)
            for key in node._fields:
                value = getattr(node, key)
                if key == "func" and isinstance(value, ast.Name):
                    continue  # `call` has looked at it
                if isinstance(value, list):
                    pending.extend((part, depth + 1, function) for part in value if isinstance(part, ast.AST))
                elif isinstance(value, ast.AST) and key != "ctx":
                    pending.append((value, depth + 1, function))
        for function in functions:
            for name, line in function.called.items():
                if name not in function.stored:
                    raise _unsupported(name[:80], self.path, line)
        return self.facts

    def define(self, node: ast.FunctionDef) -> None:
        if node.name in ("__setstate__", "__getstate__"):
            raise refusal(
                f"{self.path}, line {node.lineno} defines {node.name}, which runs while the file is loaded; "
                "export the model without quantised or custom modules"
            )
        if node.decorator_list:
            raise self.misplaced(node, 0)
        self.facts.declared.add(node.name)

    def declare(self, node: ast.ClassDef) -> None:
        """`weight : Tensor`, `RED = 1` of an enumeration, and `__annotations__["0"] = …`."""
        if node.decorator_list:
            raise self.misplaced(node, 0)
        for part in node.body:
            targets = part.targets if isinstance(part, ast.Assign) else []
            for target in [part.target] if isinstance(part, ast.AnnAssign) else targets:
                if isinstance(target, ast.Name):
                    self.facts.declared.add(target.id)
                elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                    self.facts.declared.add(str(target.slice.value))

    def name(self, node: ast.Name, function: _Function) -> None:
        if node.id in _ROOTS:
            raise refusal(f"{self.path}, line {node.lineno} uses {node.id!r} as a value")
        # Under another name, their arguments would not be checked.
        if node.id in FORBIDDEN_BUILTINS or node.id in _READ_ATTRIBUTES:
            raise _unsupported(node.id, self.path, node.lineno)
        if isinstance(node.ctx, ast.Store):
            function.stored.add(node.id)

    def attribute(self, node: ast.Attribute) -> ast.expr | None:
        """Check a chain of attributes; return what is before its first dot, where that has to be checked too."""
        chain: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        chain.reverse()
        root = inner.id if isinstance(inner, ast.Name) and inner.id in _ROOTS else None
        if root is None:
            for name in chain:
                self.facts.attributes.setdefault(name, node.lineno)
            return inner
        if root == "CONSTANTS":
            if len(chain) != 1 or not _CONSTANT.fullmatch(chain[0]):
                raise refusal(f"{self.path}, line {node.lineno} names the constant {chain[0][:80]!r}")
        elif root == "__torch__":
            if chain[:2] == ["torch", "classes"]:
                raise _unsupported(f"__torch__.{'.'.join(chain)[:200]}", self.path, node.lineno)
        else:
            space, *rest = ["aten", *chain] if root == "torch" else chain
            operator = f"{space}::{'.'.join(rest)}"
            if operator not in OPERATORS:
                raise _unsupported(operator[:200], self.path, node.lineno)
            self.facts.operators.add(operator)
        return None

    def call(self, node: ast.Call, function: _Function) -> None:
        called = node.func
        if isinstance(called, ast.Attribute):
            return
        if not isinstance(called, ast.Name):
            raise refusal(f"{self.path}, line {node.lineno} calls something that has no name")
        if called.id in FORBIDDEN_BUILTINS:
            raise _unsupported(called.id, self.path, node.lineno)
        if called.id not in BUILTINS:
            function.called.setdefault(called.id, node.lineno)
        if called.id in _READ_ATTRIBUTES:
            name = node.args[1] if len(node.args) > 1 else None
            if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                raise refusal(f"{self.path}, line {node.lineno} computes the name of an attribute")
            self.facts.attributes.setdefault(name.value, node.lineno)

    def misplaced(self, node: ast.AST, depth: int) -> ProblemError:
        line = getattr(node, "lineno", "?")
        if depth > MAX_TREE_DEPTH:
            return refusal(f"{self.path}, line {line} nests deeper than {MAX_TREE_DEPTH} levels")
        return refusal(f"{self.path}, line {line} holds {type(node).__name__}, which TorchScript code does not have")


def _unsupported(operator: str, path: str, line: int) -> ProblemError:
    return ProblemError("unsupported_operator", f"{operator} in {path}, line {line}")


def _at(path: str, source: str, position: int, what: str) -> ProblemError:
    return refusal(f"{path}, line {source.count(chr(10), 0, position) + 1} {what}")
