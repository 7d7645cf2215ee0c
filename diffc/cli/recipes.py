"""diffc recipes: what ships, and what it says."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from diffc.cli import options as o

app = typer.Typer(help="The recipes that ship with diffc.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _list(ctx: typer.Context, json: o.Json = False) -> None:
    if ctx.invoked_subcommand is not None:
        return
    from diffc.cli.show import console, print_json
    from diffc.recipe import recipe_files

    found = list(recipe_files())
    if json:
        print_json({"recipes": [_row(recipe) for recipe in found]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "family", "about"):
        table.add_column(heading)
    for recipe in found:
        table.add_row(recipe.name, recipe.family, recipe.about.partition(". ")[0].rstrip("."))
    console().print(table)


def _row(recipe: object) -> dict[str, object]:
    return {key: getattr(recipe, key) for key in ("name", "family", "models", "about")}


@app.command("show")
def show(name: Annotated[str, typer.Argument(metavar="NAME")], json: o.Json = False) -> None:
    """Print a recipe with every default filled in.

    \b
      diffc recipes show unet2d
    """
    from diffc.cli.show import print_json
    from diffc.recipe import recipe_file, resolve

    found = recipe_file(name)
    model = found.models[0] if found.models else ""
    whole = resolve(family=found.family, model=model).model_dump(mode="json")
    if json:
        print_json({**_row(found), "recipe": whole})
        return
    import yaml

    sys.stdout.write(f"# {found.about}\n")
    sys.stdout.write(yaml.safe_dump({"family": found.family, **whole}, sort_keys=False))
