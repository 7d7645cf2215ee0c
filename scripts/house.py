"""Prints how the code measures against the rules of the house (docs/architecture.md).

    python scripts/house.py            the table
    python scripts/house.py --worst    and the places behind each figure

Everything is counted from the source with ``ast`` and the tokenizer; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTICIPLES = {
    "asked", "built", "checked", "chosen", "closed", "converted", "counted", "covered", "cut",
    "described", "drawn", "encoded", "found", "given", "gone", "handed", "held", "kept",
    "known", "laid", "left", "lent", "listed", "loaded", "looked", "made", "meant", "met",
    "named", "noted", "opened", "ordered", "packed", "paired", "pinned", "placed", "put",
    "read", "said", "seen", "sent", "served", "set", "shaped", "shown", "sized", "sorted",
    "taken", "timed", "told", "traced", "tried", "used", "wanted", "warned", "worked",
    "written",
}  # fmt: skip
VAGUE = {"asked", "found", "held", "made"}
MAX_PARAMETERS, MAX_FUNCTION_LINES, MAX_FILE_LINES, MAX_FMT_SKIP = 8, 60, 450, 20
MAX_ANY_PER_1000_LINES, MAX_PARTICIPLE_SHARE = 10.0, 0.01
MANY_PARAMETERS = 5

FAMILIES = "diffc/models/families/"
DENOISER_CLASS = re.compile(r"\w*(UNet\d?D\w*Model|Transformer\d?D\w*Model)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file. name: its path from the repository's root."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


@dataclass(frozen=True)
class Figure:
    """One row of the table. places: what is behind the count, worst first."""

    rule: str
    value: float
    limit: float
    places: Sequence[str]

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def read_modules(*roots: Path) -> list[Module]:
    """Every Python file below ``roots``."""
    paths = sorted(path for root in roots for path in root.rglob("*.py"))
    texts = [(path, path.read_text("utf-8")) for path in paths]
    return [Module(str(path.relative_to(ROOT)), text, ast.parse(text)) for path, text in texts]


def figures(modules: Sequence[Module]) -> list[Figure]:
    """Every rule that can be counted, in the order in which it is printed."""
    return [rule(modules) for rule in RULES]


def many_parameters(modules: Sequence[Module]) -> Figure:
    places = [
        f"{module.name}:{node.lineno} {node.name}: {count}"
        for module in modules
        if "/cli/" not in module.name
        for node in module.functions()
        if (count := _parameters(node)) > MAX_PARAMETERS
    ]
    return Figure(f"functions outside cli/ with over {MAX_PARAMETERS} parameters", len(places), 0,
                  places)  # fmt: skip


def long_functions(modules: Sequence[Module]) -> Figure:
    places = [
        f"{module.name}:{node.lineno} {node.name}: {length}"
        for module in modules
        for node in module.functions()
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    return Figure(f"functions over {MAX_FUNCTION_LINES} lines", len(places), 0, places)


def long_files(modules: Sequence[Module]) -> Figure:
    places = [f"{m.name}: {m.lines}" for m in modules if m.lines > MAX_FILE_LINES]
    return Figure(f"files over {MAX_FILE_LINES} lines", len(places), 0, places)


def fmt_skips(modules: Sequence[Module]) -> Figure:
    counts = {module.name: module.text.count("# fmt: skip") for module in modules}
    return Figure("fmt: skip", sum(counts.values()), MAX_FMT_SKIP - 1, _ranked(counts))


def any_per_1000_lines(modules: Sequence[Module]) -> Figure:
    counts = {
        module.name: sum(
            isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(module.tree)
        )
        for module in modules
    }
    share = 1000 * sum(counts.values()) / sum(module.lines for module in modules)
    return Figure("Any per 1,000 lines", round(share, 1), MAX_ANY_PER_1000_LINES, _ranked(counts))


def repeated_classes(modules: Sequence[Module]) -> Figure:
    homes: dict[str, list[str]] = {}
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module.name)
    places = [f"{name}: {', '.join(where)}" for name, where in homes.items() if len(where) > 1]
    return Figure("top-level class names that stand for two classes", len(places), 0, places)


def participle_functions(modules: Sequence[Module]) -> Figure:
    functions = [(m.name, node) for m in modules for node in m.functions()]
    places = [
        f"{name}:{node.lineno} {node.name}"
        for name, node in functions
        if node.name.strip("_") in PARTICIPLES
    ]
    share = 100 * len(places) / len(functions)
    return Figure("functions named by a bare participle, %", round(share, 2),
                  100 * MAX_PARTICIPLE_SHARE, places)  # fmt: skip


def vague_variables(modules: Sequence[Module]) -> Figure:
    places = [
        f"{module.name}:{node.lineno} {node.id}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE
    ]
    return Figure(f"variables called {', '.join(sorted(VAGUE))}", len(places), 0, places)


def target_names(modules: Sequence[Module]) -> Figure:
    """Names of targets in diffc/, where each target should be asked instead.

    ``torch`` is a package's name too: it counts where something is compared with it, or where a
    target of that name is asked for.
    """
    home = ROOT / "export" / "diffc_export" / "targets"
    files = [file for file in home.glob("*.py") if "\nTARGET = " in file.read_text("utf-8")]
    known = {file.stem.replace("_", "-") for file in files}
    places = [
        f"{module.name}:{node.lineno} {node.value}"
        for module in modules
        if module.name.startswith("diffc/") and module.name != "diffc/torch_target.py"
        for node in [*_constants(module.tree), *_torch_as_a_target(module.tree)]
        if node.value in known or node.value == "torch"
    ]
    return Figure("targets' names in diffc/ (the recipe's default is the one)", len(places), 1,
                  places)  # fmt: skip


def _constants(tree: ast.Module) -> Iterator[ast.Constant]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return (node for node in nodes if isinstance(node.value, str) and node.value != "torch")


def _torch_as_a_target(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "target":
            parts = node.args
        for part in parts:
            if isinstance(part, ast.Constant) and part.value == "torch":
                yield part


def class_literals(modules: Sequence[Module]) -> Figure:
    """Names of denoisers' classes, which only the families' own files may have as literals."""
    places = [
        f"{module.name}:{node.lineno} {node.value}"
        for module in modules
        if module.name.startswith("diffc/") and not module.name.startswith(FAMILIES)
        for node in _constants(module.tree)
        if DENOISER_CLASS.fullmatch(str(node.value))
    ]
    return Figure("class names of denoisers outside models/families", len(places), 0, places)


def undescribed_arguments(modules: Sequence[Module]) -> Figure:
    """Public functions of many parameters without ``Args:``; help texts of verbs have none."""
    inside = (ast.walk(outer) for module in modules for outer in module.functions())
    nested = {id(node) for nodes in inside for node in list(nodes)[1:]}
    places = [
        f"{module.name}:{node.lineno} {node.name}"
        for module in modules
        if "/cli/" not in module.name
        for node in module.functions()
        if not node.name.startswith("_") and _parameters(node) >= MANY_PARAMETERS
        if id(node) not in nested
        if "Args:" not in (ast.get_docstring(node) or "")
    ]
    rule = f"public functions of {MANY_PARAMETERS} or more parameters without Args"
    return Figure(rule, len(places), 0, places)


RULES: tuple[Callable[[Sequence[Module]], Figure], ...] = (
    many_parameters, long_functions, long_files, fmt_skips, any_per_1000_lines, repeated_classes,
    participle_functions, vague_variables, target_names, class_literals, undescribed_arguments,
)  # fmt: skip


def _parameters(node: Function) -> int:
    names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in names)


def _ranked(counts: dict[str, int]) -> list[str]:
    return [f"{name}: {count}" for name, count in Counter(counts).most_common() if count]


def main() -> int:
    """Print the table; exit 1 when a rule is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worst", action="store_true", help="list the places behind each figure")
    worst = parser.parse_args().worst
    rows = figures(read_modules(ROOT / "diffc", *filter(Path.is_dir, [ROOT / "export"])))
    for row in rows:
        mark = "kept  " if row.kept else "BROKEN"
        sys.stdout.write(f"{mark}  {row.value:>7g}  (limit {row.limit:g})  {row.rule}\n")
        for place in row.places if worst else ():
            sys.stdout.write(f"            {place}\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
