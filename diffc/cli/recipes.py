"""diffc recipes: what ships, and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from diffc.cli.command import Command, takes
from diffc.cli.help import VerbGroup
from diffc.cli.verb import VerbCommand

if TYPE_CHECKING:
    from diffc.recipe import RecipeFile

_RUN_WITH = (
    "run with: the weights that the whole chain was run with here, of the models that ship with "
    "diffc (trained), or of scaled-down ones (random); published weights were not run"
)

app = typer.Typer(cls=VerbGroup, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@takes("json", context=True)
def _list(command: Command, context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from diffc.cli.show import answers, print_json
    from diffc.recipe import recipe_files

    recipes = list(recipe_files())
    if command.json:
        print_json({"recipes": [_row(recipe) for recipe in recipes]})
        return
    from diffc.report.tables import Column, print_table, print_whole

    columns = [
        Column("recipe", left=True),
        Column("family", text=True),
        Column("run with", left=True),
        Column("about", text=True),
    ]
    rows = [
        (one.name, one.family, one.run_with or "-", one.about.partition(". ")[0].rstrip("."))
        for one in recipes
    ]
    print_table(answers(), columns, rows)
    print_whole(answers(), _RUN_WITH)


def _row(recipe: RecipeFile) -> dict[str, object]:
    return {key: getattr(recipe, key) for key in ("name", "family", "models", "run_with", "about")}


@app.command("show", cls=VerbCommand)
@takes("recipe_name", "json")
def show(command: Command, recipe_name: str) -> None:
    """Print a recipe with every default filled in.

    \b
      diffc recipes show unet2d
    """
    from diffc.cli.show import print_json, write_answer
    from diffc.recipe import recipe_file, resolve

    file = recipe_file(recipe_name)
    model = file.models[0] if file.models else ""
    recipe = resolve(family=file.family, model=model).model_dump(mode="json")
    if command.json:
        print_json({**_row(file), "recipe": recipe})
        return
    import yaml

    text = yaml.safe_dump({"family": file.family, **recipe}, sort_keys=False)
    write_answer(f"# {file.about}\n{text.rstrip()}")
