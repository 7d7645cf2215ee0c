"""Which part of the three packages imports which, and the picture of them in docs/architecture.md.

A part is a folder or file directly in diffc/ (``measure``, ``output``), or one of the packages that
diffc stands on (``diffc_export``, ``diffc_runtime``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
HOMES = {
    "diffc": ROOT / "diffc",
    "diffc_export": ROOT / "export" / "diffc_export",
    "diffc_runtime": ROOT / "export" / "diffc_runtime",
}
NAMES_ALONE = {"__init__", "__main__", "errors"}
"""What holds names and no work: the picture leaves it out, and any part may import it."""
LISTS = "_names"
"""Functions so named list what a registry holds and import none of it: any part may ask them."""
COPIED = "diffc_runtime/servers/"
"""Templates, which a server's own Python imports from the bundle that holds them."""


@dataclass(frozen=True)
class Import:
    """An import statement of one part that names another."""

    place: str
    part: str
    imported: str


def drawn_layers(page: str) -> list[list[str]]:
    """The rows of the picture from the top, each a list of parts.

    The picture is the page's first indented block. Its first row has one part, so the column where
    that row's description begins is the column of every description.
    """
    lines = page.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("    "))
    block = []
    for line in lines[start:]:
        if not line.startswith("    "):
            break
        block.append(line)
    first = re.match(r"\s+\S+\s+", block[0])
    assert first is not None, block[0]
    rows = [line[: first.end()].split() for line in block]
    return [row for row in rows if row]


def parts() -> set[str]:
    """Every part there is."""
    inside = {path.stem for path in HOMES["diffc"].iterdir() if _holds_code(path)}
    return {*inside, *HOMES} - {"diffc"} - NAMES_ALONE


def _holds_code(path: Path) -> bool:
    return path.suffix == ".py" or any(path.glob("*.py"))


def imports() -> Iterator[Import]:
    """Every import of another part that happens when code runs, inside functions too."""
    for package, home in HOMES.items():
        for path in sorted(home.rglob("*.py")):
            place = path.relative_to(home.parent).as_posix()
            if not place.startswith(COPIED):
                module = ".".join([package, *path.relative_to(home).with_suffix("").parts])
                yield from _imports_of(ast.parse(path.read_text("utf-8")), place, module)


def _imports_of(tree: ast.Module, place: str, module: str) -> Iterator[Import]:
    own = part_of(module)
    for node in _run_nodes(tree):
        for name in _imported(node):
            part = part_of(name)
            if part not in (None, own):
                yield Import(f"{place}:{node.lineno}", str(own), str(part))


def _run_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, without those that a type checker alone reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _run_nodes(ast.Module(node.orelse, []))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        else:
            yield from _run_nodes(node)


def _imported(node: ast.Import | ast.ImportFrom) -> Sequence[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level or node.module is None:
        return []  # ruff forbids relative imports to parents; a sibling is of the same part
    if all(alias.name.endswith(LISTS) for alias in node.names):
        return []
    if node.module == "diffc":
        return [f"diffc.{alias.name}" for alias in node.names]
    return [node.module]


def part_of(module: str) -> str | None:
    """The part that a module belongs to; None for a module of another project."""
    package, *inside = module.split(".")
    if package != "diffc":
        return package if package in HOMES else None
    known = inside and (HOMES["diffc"] / inside[0]).is_dir()
    file = inside and (HOMES["diffc"] / f"{inside[0]}.py").is_file()
    return inside[0] if known or file else "__init__"
