"""Write into the pages of docs/ what the program itself says, so that it cannot drift.

    python scripts/fill_docs.py            fills every page
    python scripts/fill_docs.py --check    fails when a page is not what this script makes

A page has a comment on a line of its own; what the script makes stands between it and the comment
that ends it, so that the page is whole wherever it is read:

    <!-- verb: compile -->       the verb's own help, from the typer application
    <!-- recipe: sdxl -->        a shipped recipe, as the file says it
    <!-- recipes -->             a table of the shipped recipes
    <!-- planned: sdxl -->       dense and planned sizes, from bench/results/plans.json
    <!-- plans -->               all of them in one table
    <!-- file: PATH -->          a file of the repository, in a fence
    <!-- api: diffc.api -->      a module, class or function: signature, fields, docstring
    <!-- end -->                 ends each of these; the script adds it where it is missing

An unknown comment of this form is an error. ``<!-- run: ... -->`` and ``<!-- not run: ... -->`` are
for the tests.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api_page import describe

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "bench" / "results" / "plans.json"
MARK = re.compile(r"^<!-- ([a-z ]+?)(?:: (.*?))? -->$")
END = "<!-- end -->"


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text("utf-8")
        whole = filled(text)
        if whole != text and check:
            sys.exit(f"{page.relative_to(ROOT)} is out of date: run scripts/fill_docs.py")
        if whole != text:
            page.write_text(whole, "utf-8")


def filled(markdown: str) -> str:
    """Return a page with what belongs behind every comment, in the place of what stood there.

    Raises:
        KeyError: A comment asks for a kind, verb or model that there is not.
        OSError: The file that a comment names cannot be read.
    """
    return "\n".join(_filled_lines(markdown.split("\n")))


def _filled_lines(lines: list[str]) -> Iterator[str]:
    in_fence = False
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        yield line
        in_fence ^= line.startswith("```")
        mark = MARK.match(line)
        if in_fence or mark is None or mark[1] in ("run", "not run"):
            continue
        yield from ("", content(mark[1], mark[2] or ""), "", END)
        number = _after_old_content(lines, number)


def _after_old_content(lines: list[str], number: int) -> int:
    """Return the number of the first line that is not of an earlier filling."""
    for later in range(number, len(lines)):
        if lines[later] == END:
            return later + 1
        if MARK.match(lines[later]):
            break
    return number


def content(kind: str, name: str) -> str:
    """Return what belongs behind one comment."""
    makers = {"verb": verb, "recipe": recipe, "planned": planned, "file": file, "api": describe}
    tables = {"recipes": recipes, "plans": plans}
    return tables[kind]() if not name else makers[kind](name)


def commands() -> dict[str, Any]:
    """Every verb's command, 'baseline save' for those of a group, in the order of --help."""
    import typer

    from diffc.cli.app import app

    verbs = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", {})
        if not inner or command.invoke_without_command:
            verbs[name] = command
        verbs |= {f"{name} {sub}": one for sub, one in inner.items()}
    return verbs


def verb(name: str) -> str:
    """The help of one verb, 80 columns wide."""
    import click
    import typer

    from diffc.cli.app import app

    root = click.Context(typer.main.get_command(app), info_name="diffc", terminal_width=80,
                         help_option_names=["-h", "--help"])  # fmt: skip
    command = commands()[name]
    context = command.context_class(command, parent=root, info_name=name, terminal_width=80)
    return f"```text\n{command.get_help(context)}\n```"


def recipe(name: str) -> str:
    """A shipped recipe's file."""
    return file(f"recipes/{name}.yaml")


def recipes() -> str:
    """The shipped recipes, and for whom each is."""
    from diffc.recipe import recipe_files

    rows = ["| recipe | class | used for | run with | about |", "|---|---|---|---|---|"]
    for one in recipe_files():
        models = ", ".join(f"`{model}`" for model in one.models) or "the whole family"
        weights = one.run_with or "-"
        rows.append(f"| `{one.name}` | `{one.family}` | {models} | {weights} | {one.about} |")
    return "\n".join(rows)


def file(path: str) -> str:
    """A file of the repository as a fenced block."""
    text = (ROOT / path).read_text("utf-8")
    return f"```{Path(path).suffix[1:]}\n{text.rstrip()}\n```"


def planned(name: str) -> str:
    """One model's sizes: dense, and with every planned share of its MACs removed."""
    model = _plans()["models"][name]
    rows = ["| | parameters | MACs | as the paper counts MACs |", "|---|---:|---:|---:|"]
    rows.append(_row("dense", model["dense"]))
    rows += [_row(f"`--ratio {ratio}`", cost) for ratio, cost in model["ratios"].items()]
    note = f"Planned on the meta device ({model['groups']} groups, uniform widths)."
    return "\n".join([*rows, "", note])


def plans() -> str:
    """Every planned model: parameters and MACs, dense and at each ratio."""
    models = _plans()["models"]
    ratios = list(next(iter(models.values()))["ratios"])
    heads = ["configuration", "class", "dense", *(f"`--ratio {ratio}`" for ratio in ratios)]
    rows = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for name, one in models.items():
        cells = [_both(one["dense"]), *(_both(cost) for cost in one["ratios"].values())]
        rows.append(f"| {name} | `{one['class_name']}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _plans() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PLANS.read_text("utf-8"))
    return content


def _row(name: str, cost: dict[str, Any]) -> str:
    if "refused" in cost:
        return f"| {name} | {cost['refused']} | | |"
    shown = (count(cost["params"]), count(cost["macs"]), count(cost["macs_paper"]))
    return f"| {name} | {' | '.join(shown)} |"


def _both(cost: dict[str, Any]) -> str:
    if "refused" in cost:
        return "out of reach"
    return f"{count(cost['params'])}, {count(cost['macs'])} MACs"


def count(value: float) -> str:
    """1234567 -> '1.23 M', as every report of diffc writes it."""
    from diffc.report.units import count as written

    return written(value)


if __name__ == "__main__":
    main()
