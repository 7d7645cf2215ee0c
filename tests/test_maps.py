"""The maps of the code name what is there, and all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.layers import PAGE, ROOT
from support.maps import code_in, docstring_map, packages, tree

MAPPED = [package for package in packages() if docstring_map(package)]


@pytest.mark.parametrize("package", MAPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_packages_docstring_names_its_files(package: Path) -> None:
    named = docstring_map(package)
    assert [name for name in named if not (package / name).exists()] == []
    assert code_in(package) - set(named) == set()


def test_the_large_packages_have_a_map() -> None:
    """One file for each target or family needs none: the folder is the map."""
    listed = {"families", "targets", "loaders"}
    without = set(packages()) - set(MAPPED) - {ROOT / "diffc"}
    assert {p.name for p in without if len(code_in(p)) > 3} <= listed


def test_the_tree_names_what_is_there() -> None:
    entries = list(tree(PAGE.read_text("utf-8")))
    assert len(entries) > 20
    assert [name for _, name in entries if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", ["diffc/", "export/"])
def test_the_tree_is_whole(folder: str) -> None:
    entries = {name for _, name in tree(PAGE.read_text("utf-8"))}
    inside = {f"{folder}{name}" for name in code_in(ROOT / folder)}
    assert inside - entries == set()
