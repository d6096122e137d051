"""Sizes that are expressions of symbols, such as 2·s39 + 1: a grammar, and an evaluator of integers.

torch.export writes them as sympy prints them (`Mul(Integer(2), Symbol('s39', positive=True, integer=True))`), and
older releases as infix text (`2*s39`). sympy reads such a text with Python's `eval`; here only this grammar is read:

    expression := term (('+' | '-') term)*            term := power (('*' | '//' | '%' | '/') power)*
    power := unary ('**' unary)?                      unary := '-' unary | atom
    atom := integer | decimal | name | name '(' arguments ')' | '(' expression ')'
    arguments := (expression | text | name '=' ('True' | 'False' | integer)), separated by commas
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

MAX_TEXT = 2_000  # characters; chosen: the size of a concatenation of 20 dynamic parts has about 1,000
MAX_DEPTH = 32
MAX_OPERATORS = 200  # infix ones; each deepens the tree by a level
MAX_VALUE = 2**63 - 1
MAX_EXPONENT = 64

_WORD = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<text>'[\w.+-]*')|(?P<sign>\*\*|//|[-+*/%(),=]))",
    re.ASCII,
)
# Functions of sympy and of torch's own symbols that have an integer value here.
INTEGER_FUNCTIONS = frozenset(
    {"Add", "Mul", "Pow", "PowByNatural", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "IntTrueDiv", "Max",
     "Min", "ceiling", "floor", "CeilToInt", "FloorToInt", "TruncToInt", "Integer", "Rational", "Symbol", "Dummy",
     "Identity"}
)  # fmt: skip
# Those that stand for a number or a truth of another kind: read, never evaluated, because no input's size has them.
OTHER_FUNCTIONS = frozenset(
    {"Float", "FloatPow", "FloatTrueDiv", "ToFloat", "TruncToFloat", "RoundToInt", "RoundDecimal", "LShift", "RShift",
     "ModularIndexing", "Where", "ITE", "Piecewise", "ExprCondPair", "Abs", "sqrt", "exp", "log", "Not", "And", "Or",
     "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Eq", "Ne", "Lt",
     "Le", "Gt", "Ge", "BooleanTrue", "BooleanFalse", "IsNonOverlappingAndDenseIndicator"}
)  # fmt: skip
_OPAQUE = re.compile(r"OpaqueUnaryFn_[a-z0-9]{1,16}", re.ASCII)
_CONSTANTS = {"true": 1, "false": 0, "True": 1, "False": 0}


class ExpressionError(ValueError):
    """A text that is no expression of the grammar, or an expression without an integer value."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One node.

    Attributes:
        function: "integer", "symbol", "number" (not an integer), or the name of a function.
        value: of an integer.
        name: of a symbol.
        arguments: of a function.
    """

    function: str
    value: int = 0
    name: str = ""
    arguments: tuple[Expression, ...] = ()

    def __str__(self) -> str:
        if self.function == "integer":
            return str(self.value)
        if self.function in ("Add", "Mul") and self.arguments:
            sign = " + " if self.function == "Add" else "*"
            return sign.join(f"({part})" if part.function == "Add" else str(part) for part in self.arguments)
        return self.name or f"{self.function}({', '.join(map(str, self.arguments))})"


def integer(value: int) -> Expression:
    """Return the expression of a number."""
    return Expression("integer", value)


def read_expression(text: str) -> Expression:
    """Read a size.

    Raises:
        ExpressionError: naming the character or the function.

    >>> expression = read_expression("Add(Mul(Integer(2), Symbol('s39', positive=True, integer=True)), Integer(1))")
    >>> evaluate(expression, {"s39": 4})
    9
    >>> evaluate(read_expression("(2*s39 + 1)//3"), {"s39": 4})
    3
    >>> read_expression("__import__('os')")
    Traceback (most recent call last):
    ...
    gradinspect.contracts.exported.expressions.ExpressionError: has a function '__import__' that is not known
    """
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"has {len(text)} characters; at most {MAX_TEXT} are taken")
    return _Parser(text).read()


def symbols(expression: Expression) -> frozenset[str]:
    """Return the names of the symbols in an expression."""
    if expression.name:
        return frozenset({expression.name})
    return frozenset().union(*map(symbols, expression.arguments))


def evaluate(expression: Expression, values: Mapping[str, int]) -> int:
    """Compute an integer.

    Args:
        expression: from `read_expression`.
        values: of the symbols.

    Raises:
        ExpressionError: a symbol has no value, a division is by zero, or the value is no integer of 64 bits.
    """
    value = _value(expression, values)
    if value.denominator != 1:
        raise ExpressionError(f"{expression} is {value}, which is no integer")
    return int(value)


class _Parser:
    """Recursive descent over the words of one text."""

    def __init__(self, text: str) -> None:
        self._words: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _WORD.match(text, at)
            if match is None:
                raise ExpressionError(f"has {text[at : at + 20]!r} at character {at}")
            kind = str(match.lastgroup)
            self._words.append((kind, match[kind]))
            at = match.end()
        self._next, self._depth, self._operators = 0, 0, 0

    def read(self) -> Expression:
        expression = self._sum()
        if self._next != len(self._words):
            raise ExpressionError(f"has {self._peek()[:20]!r} behind its end")
        return expression

    def _sum(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"nests deeper than {MAX_DEPTH} levels")
        left = self._product()
        while self._peek() in ("+", "-"):
            is_minus = self._operator() == "-"
            right = self._product()
            left = Expression("Add", arguments=(left, _negative(right) if is_minus else right))
        self._depth -= 1
        return left

    def _product(self) -> Expression:
        names = {"*": "Mul", "//": "FloorDiv", "%": "PythonMod", "/": "IntTrueDiv"}
        left = self._power()
        while self._peek() in names:
            left = Expression(names[self._operator()], arguments=(left, self._power()))
        return left

    def _power(self) -> Expression:
        base = self._unary()
        if self._peek() != "**":
            return base
        self._take()
        return Expression("Pow", arguments=(base, self._unary()))

    def _unary(self) -> Expression:
        minus = 0
        while self._peek() == "-":
            minus += 1
            self._take()
        atom = self._atom()
        return _negative(atom) if minus % 2 else atom

    def _atom(self) -> Expression:
        if self._next >= len(self._words):
            raise ExpressionError("ends too early")
        kind, word = self._words[self._next]
        self._next += 1
        if kind == "number":
            return _number(word)
        if word == "(":
            inner = self._sum()
            self._expect(")")
            return inner
        if kind != "name":
            raise ExpressionError(f"has {word[:20]!r} where a value should be")
        if self._peek() == "(":
            return self._call(word)
        if word in _CONSTANTS:
            return integer(_CONSTANTS[word])
        return Expression("symbol", name=word)

    def _call(self, function: str) -> Expression:
        if function not in INTEGER_FUNCTIONS | OTHER_FUNCTIONS and _OPAQUE.fullmatch(function) is None:
            raise ExpressionError(f"has a function {function[:40]!r} that is not known")
        self._take()
        arguments: list[Expression] = []
        text: str | None = None
        while self._peek() != ")":
            if self._kind() == "text":
                if text is not None or arguments or function not in ("Symbol", "Dummy", "Float"):
                    raise ExpressionError(f"has a text in {function}")
                text = self._take()[1:-1]
            elif self._is_keyword():
                self._keyword()
            else:
                arguments.append(self._sum())
            if self._peek() != ")":
                self._expect(",")
        self._expect(")")
        if function in ("Symbol", "Dummy", "Float"):
            return _leaf(function, text, arguments)
        return _called(function, tuple(arguments))

    def _is_keyword(self) -> bool:
        following = self._words[self._next + 1] if self._next + 1 < len(self._words) else ("", "")
        return self._kind() == "name" and following == ("sign", "=")

    def _keyword(self) -> None:
        self._take()
        self._take()
        if self._kind() != "number" and self._peek() not in ("True", "False"):
            raise ExpressionError("has a keyword with a value that is not True, False or a number")
        self._take()

    def _kind(self) -> str:
        return self._words[self._next][0] if self._next < len(self._words) else ""

    def _peek(self) -> str:
        return self._words[self._next][1] if self._next < len(self._words) else ""

    def _take(self) -> str:
        word = self._peek()
        self._next += 1
        return word

    def _operator(self) -> str:
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            raise ExpressionError(f"has more than {MAX_OPERATORS} operators")
        return self._take()

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise ExpressionError(f"has {self._peek()[:20]!r} where {sign!r} should be")
        self._take()


def _number(word: str) -> Expression:
    if not word.isdigit():
        return Expression("number", name="")
    if len(word) > 19 or int(word) > MAX_VALUE:
        raise ExpressionError(f"has the number {word[:24]}, which does not fit in 64 bits")
    return integer(int(word))


def _negative(expression: Expression) -> Expression:
    if expression.function == "integer":
        return integer(-expression.value)
    return Expression("Mul", arguments=(integer(-1), expression))


def _leaf(function: str, text: str | None, arguments: list[Expression]) -> Expression:
    if function == "Float":
        return Expression("number")
    if not text or arguments or not text.isidentifier():
        raise ExpressionError(f"has a {function} without a name")
    return Expression("symbol", name=text)


def _called(function: str, arguments: tuple[Expression, ...]) -> Expression:
    if function == "Integer":
        if len(arguments) != 1 or arguments[0].function != "integer":
            raise ExpressionError("has an Integer that is none")
        return arguments[0]
    return Expression(function, arguments=arguments)


def _value(expression: Expression, values: Mapping[str, int]) -> Fraction:
    if expression.function == "integer":
        return Fraction(expression.value)
    if expression.name:
        if expression.name not in values:
            raise ExpressionError(f"the symbol {expression.name} has no value")
        return Fraction(values[expression.name])
    if expression.function not in INTEGER_FUNCTIONS or not expression.arguments:
        raise ExpressionError(f"{expression} has no integer value")
    operands = [_value(argument, values) for argument in expression.arguments]
    result = _applied(expression.function, operands)
    if abs(result.numerator) > MAX_VALUE or result.denominator > MAX_VALUE:
        raise ExpressionError(f"{expression.function} does not fit in 64 bits")
    return result


def _applied(function: str, operands: list[Fraction]) -> Fraction:
    if function in ("Add", "Mul"):
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand if function == "Add" else total * operand
            if abs(total.numerator) > MAX_VALUE:
                raise ExpressionError(f"{function} does not fit in 64 bits")
        return total
    if function in ("Max", "Min"):
        return max(operands) if function == "Max" else min(operands)
    if function in ("ceiling", "CeilToInt", "floor", "FloorToInt", "TruncToInt", "Identity") and len(operands) == 1:
        return _rounded(function, operands[0])
    if len(operands) != 2:
        raise ExpressionError(f"{function} takes other arguments")
    left, right = operands
    if function in ("Pow", "PowByNatural"):
        return _power(left, right)
    if right == 0:
        raise ExpressionError(f"{function} divides by zero")
    if function in ("Mod", "PythonMod"):
        return left % right
    if function in ("FloorDiv", "CeilDiv"):
        return Fraction(floor(left / right) if function == "FloorDiv" else ceil(left / right))
    return left / right  # IntTrueDiv, CleanDiv, Rational


def _rounded(function: str, value: Fraction) -> Fraction:
    if function == "Identity":
        return value
    if function in ("ceiling", "CeilToInt"):
        return Fraction(ceil(value))
    return Fraction(int(value) if function == "TruncToInt" else floor(value))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise ExpressionError(f"a power has the exponent {exponent}")
    if base == 0 and exponent < 0:
        raise ExpressionError("a power divides by zero")
    return base ** int(exponent)
