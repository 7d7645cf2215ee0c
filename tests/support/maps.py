"""Maps of folders: in the docstrings of packages, and the tree in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.layers import ROOT

PACKAGES = [ROOT / "diffc", ROOT / "export"]
NAMES = re.compile(r"[\w.]+(?:\.py|/)(?:, +[\w.]+(?:\.py|/))*(?= |$)")
"""An entry of a map, or several with one description: ``losses.py``, ``a.py, b.py``, ``d/``."""


def docstring_map(package: Path) -> list[str]:
    """The files and folders that a package's docstring names at the beginning of a line."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""
    return [name for line in text.splitlines() for name in _entries(line)]


def code_in(folder: Path) -> set[str]:
    """The modules and packages directly in a folder, as maps write them."""
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
    return modules | {f"{path.name}/" for path in folder.iterdir() if any(path.glob("*.py"))}


def packages() -> list[Path]:
    """Every folder with an ``__init__.py``."""
    return sorted(path.parent for root in PACKAGES for path in root.rglob("__init__.py"))


def tree(page: str) -> Iterator[tuple[int, str]]:
    """The entries of the page's tree: how deep each stands, and its path from the root.

    The tree is the indented block that begins with ``diffc/``. An entry is indented by two columns
    more than the folder that it lies in; lines that go on with a description are further in.
    """
    lines = page[page.index("    diffc/\n") :].splitlines()
    above: list[str] = []
    for line in lines:
        if not line.startswith("    "):
            return
        text = line.lstrip()
        depth, rest = divmod(len(line) - len(text) - 4, 2)
        if rest == 0 and depth <= len(above):
            for name in _entries(text):
                above[depth:] = [name]
                yield depth, "".join(above)


def _entries(line: str) -> list[str]:
    match = NAMES.match(line.strip())
    return re.split(r", +", match[0]) if match else []
