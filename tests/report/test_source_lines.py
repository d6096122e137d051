"""Code for a terminal: broken lines mean the same."""

import ast

import pytest

from gradinspect.report.text.source_lines import fitted

LONG = """\
for module in model.modules():
    if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        names = {"a, b": [1, 2, 3], "c # d": "(", "e": f(x, y, z)}  # a comment, with (brackets
"""


@pytest.mark.parametrize("width", [30, 50, 70, 90, 120])
def test_broken_code_means_the_same(width: int) -> None:
    lines = fitted(LONG, width)
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(LONG))
    assert "a comment, with (brackets" in "\n".join(lines)


def test_lines_that_can_be_broken_fit() -> None:
    assert max(map(len, fitted(LONG, 70))) <= 70


def test_short_lines_are_left_alone() -> None:
    assert fitted("f(a, b)  # why\n", 40) == ["f(a, b)  # why"]


def test_no_line_is_broken_inside_a_string_or_outside_brackets() -> None:
    assert fitted("a, b = 'first, second, third'", 10) == ["a, b = 'first, second, third'"]


def test_text_that_is_not_python_is_left_alone() -> None:
    assert fitted("call((first, second, third", 10) == ["call((first, second, third"]
