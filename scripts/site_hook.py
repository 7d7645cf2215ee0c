"""The documentation's moving parts, filled in when the site is built (mkdocs calls it).

A page holds a comment on a line of its own; what stands for it is made here, so it cannot drift:

    <!-- verb: compile -->       the verb's own help, from the typer application
    <!-- recipe: sdxl -->        a shipped recipe, as the file says it
    <!-- recipes -->             a table of the shipped recipes
    <!-- planned: sdxl -->       dense and planned sizes, from bench/results/plans.json
    <!-- plans -->               all of them in one table
    <!-- file: PATH -->          a file of the repository, in a fence
    <!-- not run: REASON -->     stays invisible on GitHub; the site says it below the commands

An unknown comment of this form fails the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLANS = ROOT / "bench" / "results" / "plans.json"
MARK = re.compile(r"^<!-- ([a-z ]+?)(?:: (.*?))? -->$", re.M)
NOT_RUN = re.compile(r"^<!-- not run: (.*?) -->\n(```(?:bash|python)\n.*?^```$)", re.M | re.S)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: the page's text with every mark filled in."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """``markdown`` with its marks replaced. Raises KeyError or ValueError for an unknown one."""
    said = NOT_RUN.sub(r"\2\n\n<small>Not run by the tests: \1.</small>\n", markdown)
    return MARK.sub(lambda found: made(found[1], found[2] or ""), said)


def made(kind: str, name: str) -> str:
    """What stands for one mark."""
    makers = {"verb": verb, "recipe": recipe, "planned": planned, "file": file}
    tables = {"recipes": recipes, "plans": plans}
    if kind == "run":  # for the tests alone
        return ""
    if kind in tables and not name:
        return tables[kind]()
    return makers[kind](name)


def commands() -> dict[str, Any]:
    """Every verb's command, 'baseline save' for those of a group, in the order of --help."""
    import typer

    from diffc.cli.app import app

    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", {})
        if not inner or command.invoke_without_command:
            found[name] = command
        found |= {f"{name} {sub}": one for sub, one in inner.items()}
    return found


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

    rows = ["| recipe | class | used for | about |", "|---|---|---|---|"]
    for one in recipe_files():
        models = ", ".join(f"`{model}`" for model in one.models) or "the whole family"
        rows.append(f"| `{one.name}` | `{one.family}` | {models} | {one.about} |")
    return "\n".join(rows)


def file(path: str) -> str:
    """A file of the repository as a fenced block."""
    text = (ROOT / path).read_text("utf-8")
    return f"```{Path(path).suffix[1:]}\n{text.rstrip()}\n```"


def planned(name: str) -> str:
    """One model's sizes: dense, and with every planned share of its MACs removed."""
    found = _plans()["models"][name]
    rows = ["| | parameters | MACs | as the paper counts MACs |", "|---|---:|---:|---:|"]
    rows.append(_row("dense", found["dense"]))
    rows += [_row(f"`--ratio {ratio}`", cost) for ratio, cost in found["ratios"].items()]
    said = f"Planned on the meta device ({found['groups']} groups, uniform widths)."
    return "\n".join([*rows, "", said])


def plans() -> str:
    """Every planned model: parameters and MACs, dense and at each ratio."""
    held = _plans()["models"]
    ratios = list(next(iter(held.values()))["ratios"])
    heads = ["configuration", "class", "dense", *(f"`--ratio {ratio}`" for ratio in ratios)]
    rows = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for name, one in held.items():
        cells = [_both(one["dense"]), *(_both(cost) for cost in one["ratios"].values())]
        rows.append(f"| {name} | `{one['class_name']}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _plans() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PLANS.read_text("utf-8"))
    return found


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
