"""The shape of the tree: small folders that say what they are for, and no import circle between siblings."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
MOST_FILES = 20  # chosen: as many names as a reader takes in at once
PACKAGES = ("gradinspect", "service", "workers")


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)


def folders() -> list[str]:
    """Return every package of the three, by its dotted name."""
    return sorted(
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    )


def test_no_folder_has_more_than_twenty_files() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes: dict[str, int] = {}
    for name in listed.splitlines():
        path = Path(name)
        if path.suffix == ".py":
            sizes[str(path.parent)] = sizes.get(str(path.parent), 0) + 1
    assert {folder: size for folder, size in sizes.items() if size > MOST_FILES} == {}


@pytest.mark.parametrize("folder", folders())
def test_a_folder_says_what_may_be_in_it(folder: str) -> None:
    text = (ROOT.joinpath(*folder.split(".")) / "__init__.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("folder", folders())
def test_siblings_import_each_other_in_one_direction(folder: str) -> None:
    graph = imports()
    children = graph.find_children(folder)
    inside = {child: {child} | graph.find_descendants(child) for child in children}
    arrows = {
        child: {
            other
            for other in children - {child}
            if any(graph.find_modules_directly_imported_by(module) & inside[other] for module in inside[child])
        }
        for child in children
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"{folder} has a circle: {' → '.join(error.args[1])}")


def test_the_engine_has_at_most_ten_rooms() -> None:
    rooms = imports().find_children("gradinspect.engine")
    assert len(rooms) <= 10
