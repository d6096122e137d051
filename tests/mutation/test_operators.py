"""Changes of the mutation tests: each is made once, and none to what has no behaviour."""

from __future__ import annotations

import ast

import pytest

from tests.mutation.operators import mutants, mutated


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a < b", {"a <= b"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("a + b", {"a - b"}),
        ("x = 2", {"x = 3"}),
        ("x = 0.5", {"x = 1.0"}),
        ("x = True", {"x = False"}),
        ("min(a, b)", {"max(a, b)", "pass"}),
        ("x = a if c else b", {"x = b if c else a"}),
        ("if c:\n    f()", {"if not c:\n    f()", "if c:\n    pass"}),
        ("x += y", {"pass"}),
    ],
)
def test_each_change_is_made_once(source: str, changed: set[str]) -> None:
    assert {ast.unparse(mutated(source, mutant)) for mutant in mutants("a.py", source)} == changed


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: Literal[3]) -> Literal[4]: return x",
        "raise ValueError(3)",
        "x = f'{a + 1}'",
        "if TYPE_CHECKING:\n    x = 3",
        "Kind = Literal[3]",
        "@bounded(3)\ndef f(): return x",
        "x = zip(a, b, strict=True)",
    ],
)
def test_declarations_and_messages_are_left_alone(source: str) -> None:
    assert mutants("a.py", source) == []


def test_a_mutant_is_named_by_its_text_and_not_by_its_line() -> None:
    (first,) = mutants("a.py", "x = 2")
    (second,) = mutants("a.py", "\n\nx = 2")
    assert first.line != second.line
    assert first.key == second.key


def test_equal_changes_of_one_module_have_names_of_their_own() -> None:
    first, second = mutants("a.py", "x = 2\nx = 2")
    assert first.key == "a.py: x = 2: 2 becomes 3"
    assert second.key == "a.py: x = 2: 2 becomes 3 (2)"
