"""The flag table: a row and a field of the recipe are enough for a verb to take a flag."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from pydantic import BaseModel, Field
from support.command import diffc_in_process
from typer.testing import CliRunner

from diffc.cli.app import app
from diffc.cli.command import Command, recipe_options, takes
from diffc.cli.flags import FLAGS, Flag
from diffc.cli.flags.of_recipes import RECIPE_FLAGS
from diffc.cli.flags.of_verbs import VERB_FLAGS
from diffc.cli.help import VerbGroup
from diffc.cli.run import with_ratios
from diffc.errors import RequestError
from diffc.recipe import Recipe, layers, recipe_files, resolve
from diffc.recipe.sections.base import RecipeSection

NOT_LITERAL = {"4; 1 for a model of few steps", "the model's", "each", "all cores", "none",
               "reported only", "the reference loop", "50 steps of ddim or flow-euler"}  # fmt: skip
"""Defaults that help describes, since the recipe has None or False for them."""
OF_RECIPES = "the recipe's, else "


class ToySection(RecipeSection):
    size: int = Field(default=1, ge=1)


class ToyRecipe(Recipe):
    toy: ToySection = ToySection()


@pytest.fixture
def toy_recipes(monkeypatch):
    """The recipes of a verb with a toy flag, as the command line made them."""
    recipes: list[ToyRecipe] = []
    monkeypatch.setitem(
        FLAGS, "toy_size", Flag("toy_size", int, "Size of the toy.", path="toy.size", shown="1")
    )
    monkeypatch.setattr(layers, "Recipe", ToyRecipe)

    @takes("model", "ratio", "toy_size", "json")
    def play(command: Command) -> None:
        """Play with a model."""
        recipes.append(resolve(family="", recipe=command.recipe, flags=command.options))

    toys = typer.Typer()
    toys.command("play")(play)
    return recipes, toys


def test_a_row_and_a_field_are_enough(toy_recipes):
    recipes, toys = toy_recipes
    done = CliRunner().invoke(toys, ["demo", "--toy-size", "3"], catch_exceptions=False)
    assert done.exit_code == 0
    assert (recipes[0].toy.size, recipes[0].prune.ratio) == (3, 0.5)
    help_text = CliRunner().invoke(toys, ["--help"]).output
    assert "--toy-size" in help_text and "Size of the toy.  [1]" in help_text


def test_a_flag_that_is_not_given_leaves_the_recipe_its_default(toy_recipes):
    recipes, toys = toy_recipes
    CliRunner().invoke(toys, ["demo"], catch_exceptions=False)
    assert recipes[0].toy.size == 1


def test_the_recipe_refuses_a_flags_value_by_its_path(toy_recipes):
    _, toys = toy_recipes
    done = CliRunner().invoke(toys, ["demo", "--toy-size", "0"])
    assert "toy.size: 0 is too small: at least 1" in str(done.exception)


def field_at(path: str):
    kind: type[BaseModel] = Recipe
    *sections, name = path.split(".")
    for section in sections:
        kind = kind.model_fields[section].annotation
    return kind.model_fields[name]


@pytest.mark.parametrize("flag", RECIPE_FLAGS, ids=lambda flag: flag.key)
def test_a_path_leads_to_a_field_whose_default_help_shows(flag):
    default = field_at(flag.path).default
    assert flag.default is None
    shown = flag.shown.removeprefix(OF_RECIPES)
    if shown and shown not in NOT_LITERAL:
        values = default if isinstance(default, tuple) else (default,)
        assert shown == ",".join(
            f"{value:g}" if isinstance(value, float) else str(value) for value in values
        )


def set_paths(options, before=""):
    """The options that a recipe's file sets: prune.ratio."""
    for name, value in options.items():
        is_section = isinstance(value, dict)
        yield from set_paths(value, f"{before}{name}.") if is_section else [f"{before}{name}"]


def test_help_says_which_defaults_the_shipped_recipes_change():
    """--ratio of Stable Diffusion is 0.3 where nobody says it, not the 0.5 of the demo."""
    of_recipes = {path for file in recipe_files() for path in set_paths(file.options)}
    flags = [flag for flag in RECIPE_FLAGS if flag.path in of_recipes]
    assert {"ratio", "precision", "loop"} <= {flag.key for flag in flags}
    plain = {flag.key for flag in flags if not flag.shown.startswith(OF_RECIPES)}
    assert plain == {"distill_of_search"}, "a search has an aim of its own"


def shown_defaults(command):
    """Option -> the default in a verb's help."""
    params = command.get_params(typer.Context(command))
    return {max(one.opts, key=len): (one.help or "").rpartition("  [")[2] for one in params}


def test_a_verb_on_a_folder_shows_that_the_folder_has_the_defaults():
    commands = typer.main.get_command(app).commands
    assert shown_defaults(commands["compile"])["--precision"] == OF_RECIPES + "fp32]"
    assert shown_defaults(commands["build"])["--precision"] == "OUT's]"
    assert shown_defaults(commands["distill"])["--recipe"] == "OUT's]"
    of_eval = shown_defaults(commands["eval"])
    assert of_eval["--images"] == "OUT's]"
    assert of_eval["--features"] == "inception]", "an evaluation names its own"


def verbs(group: Any = None) -> Iterator:
    """Every function that is a verb, of all groups."""
    for command in (group or typer.main.get_command(app)).commands.values():
        if isinstance(command, VerbGroup):
            yield from verbs(command)
        else:
            yield command.callback.__wrapped__


@pytest.mark.parametrize("verb", list(verbs()), ids=lambda verb: verb.__name__)
def test_a_verb_gets_what_its_function_takes(verb):
    """The flags without a path that are not in Command are the function's own parameters."""
    shared = set(inspect.signature(Command).parameters)
    flags = [FLAGS[key] for key in verb.flag_keys]
    own = {flag.parameter_name for flag in flags if flag.path is None} - shared
    _, *parameters = inspect.signature(verb.__wrapped__).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind.name != "VAR_KEYWORD"}
    assert named == own or (named < own and len(named) < len(parameters))
    assert len({flag.parameter_name for flag in flags}) == len(flags)


def test_every_row_has_a_key_of_its_own_and_a_verb():
    assert len(FLAGS) == len(RECIPE_FLAGS) + len(VERB_FLAGS)
    assert set(FLAGS) == {key for verb in verbs() for key in verb.flag_keys}


def test_an_unknown_key_fails_at_import():
    with pytest.raises(KeyError, match="ratoi"):
        takes("ratoi")


def test_fit_is_an_amount_of_memory_and_its_older_words_are_of_images():
    assert recipe_options({"fit": "4GB"}) == {"prune": {"fit": "4GB"}}
    for word in ("skip", "resize"):
        assert recipe_options({"fit": word}) == recipe_options({"image_fit": word})
        assert recipe_options({"fit": word}) == {"data": {"fit": word}}


def test_a_ratio_and_an_amount_of_memory_are_one_too_many():
    with pytest.raises(RequestError, match=r"--ratio 0\.5 and --fit 4GB: each says how much goes"):
        recipe_options({"ratio": "0.5", "fit": "4GB"})
    assert recipe_options({"ratio": "0.5", "fit": "resize"})["prune"] == {"ratio": 0.5}
    command = Command({"prune": {"fit": "4GB"}})
    with pytest.raises(RequestError, match="each says how much goes"):
        with_ratios(command, ["0.3", "0.5"])


def test_a_search_takes_fit_for_images_alone():
    """Its memory is a goal: --max-memory."""
    done = diffc_in_process("search", "demo", "--min-ssim", "0.9", "--fit", "4GB")
    assert done.returncode == 2
    assert "--image-fit: 4GB is none of skip or resize" in done.stderr
