"""The recipes that ship with diffc, and the recipe files of the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import unknown
from diffc.recipe.yaml_file import read_yaml

_PACKAGE = Path(__file__).parent.parent
RECIPES = next(p for p in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if p.is_dir())
"""The recipes lie in the package in a wheel, and beside the package in a checkout."""


@dataclass(frozen=True)
class RecipeFile:
    """One recipe file: the options that differ from the defaults.

    Attributes:
        name: the file's name without ``.yaml``.
        family: the denoiser's class that the recipe is for.
        models: the models that the recipe is for; empty: the whole family.
        about: one or two sentences for people.
        options: nested as a Recipe is.
        path: the file.
    """

    name: str
    family: str
    models: tuple[str, ...]
    about: str
    options: Mapping[str, object]
    path: Path


def recipe_files() -> Iterator[RecipeFile]:
    """The recipes that ship with diffc, by name."""
    for path in sorted(RECIPES.glob("*.yaml")):
        yield read_recipe_file(path)


def recipe_file(name: str) -> RecipeFile:
    """The shipped recipe ``name``.

    Raises:
        RequestError: there is no such recipe; the error has the nearest names.
    """
    files = {file.name: file for file in recipe_files()}
    if name not in files:
        raise unknown("recipe", name, list(files))
    return files[name]


def read_recipe_file(path: Path) -> RecipeFile:
    """The recipe in ``path``.

    Raises:
        InputError: the file cannot be read, or is not a mapping of options.
    """
    value = read_yaml(path)
    header = {key: value.pop(key, None) for key in ("family", "models", "about")}
    models = header["models"]
    return RecipeFile(
        name=path.stem,
        family=str(header["family"] or ""),
        models=tuple(models) if isinstance(models, list | tuple | str) else (),
        about=str(header["about"] or "").strip(),
        options=value,
        path=path,
    )
