"""Plain English: docstrings open with a verb, and no text uses the private words that the style page lists."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("gradinspect", "service", "workers", "migrations", "benchmarks", "examples", "tests")
FILES = sorted(file for folder in CODE for file in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])

# A function's docstring says what it does; these words open one that names or asks.
NOT_A_VERB = {
    "A", "All", "An", "Are", "As", "At", "Both", "Do", "Does", "Each", "Every", "For", "From", "How", "If", "In", "Is",
    "It", "Its", "Like", "Of", "On", "One", "Only", "That", "The", "These", "They", "This", "Those", "What", "When",
    "Where", "Whether", "Which", "Who", "Whose", "Why", "With",
}  # fmt: skip
# Words for which the field has its own. Checked in comments, docstrings and pages, not in names or other texts.
# `nobody` in backticks is the user of Unix.
PRIVATE = re.compile(
    r"\b(doorbells?|strangers?'?s?|held against|(?<!`)nobody|somebody|everybody|beside|hearsay|in its stead|gives? way"
    r"|of (?:its|their|his|her|our|your) own|at hand|no ?one's affair|affair|rung|told apart)\b",
    re.IGNORECASE,
)


def described(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the docstring of every function in a file; a test's docstring may state its case."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
            docstring = ast.get_docstring(node)
            if docstring and not is_property and not node.name.startswith("test_"):
                yield node.lineno, docstring


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every comment and docstring."""
    text = file.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node.body[0].lineno, docstring


@pytest.mark.parametrize("folder", CODE)
def test_docstrings_of_functions_open_with_a_verb(folder: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {docstring.splitlines()[0]}"
        for file in FILES
        if file.relative_to(ROOT).parts[0] == folder
        for line, docstring in described(file)
        if docstring.split(maxsplit=1)[0].rstrip(",:") in NOT_A_VERB
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", CODE)
def test_comments_and_docstrings_use_the_words_of_the_field(folder: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {found.group(0)!r} in {text.strip()[:90]!r}"
        for file in FILES
        if file.relative_to(ROOT).parts[0] == folder
        for line, text in prose(file)
        for found in PRIVATE.finditer(text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    wrong = [
        f"{page.name}:{number}: {found.group(0)!r}"
        for number, line in enumerate(lines, 1)
        for found in PRIVATE.finditer(line)
    ]
    assert not wrong, "\n".join(wrong)
