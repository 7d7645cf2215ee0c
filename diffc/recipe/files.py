"""The recipes that ship with diffc, and the recipe files of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from diffc.errors import InputError, unknown
from diffc.recipe.yaml_file import read_yaml

_PACKAGE = Path(__file__).parent.parent
RECIPES = next(p for p in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if p.is_dir())
"""The recipes lie in the package in a wheel, and beside the package in a checkout."""


LOCK_FORMAT = 1
"""The format of recipe.lock.yaml, which can be given back as a recipe."""

_HEADER = ("family", "models", "run_with", "about", "extends", "config")


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
        extends: the recipe that this one changes: a shipped recipe's name, or a YAML file.
        config: the values of a denoiser's config.json by which a model of ``models`` is recognised
            in a folder of any name; null: absent.
        run_with: the weights of the models that the whole chain was run with: ``trained``, or
            ``random`` ones of scaled-down models; empty: it was not run.
        is_whole: True for a recipe.lock.yaml, which holds every option.
    """

    name: str
    family: str
    models: tuple[str, ...]
    about: str
    options: Mapping[str, object]
    path: Path
    extends: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    run_with: str = ""
    is_whole: bool = False

    def recognises(self, config: Mapping[str, object]) -> bool:
        """True for the config.json of a model that the recipe is for."""
        return bool(self.config) and all(
            _as_list(config.get(key)) == _as_list(value) for key, value in self.config.items()
        )


def recipe_files() -> tuple[RecipeFile, ...]:
    """The recipes that ship with diffc, by name."""
    return _files_in(RECIPES)


@cache
def _files_in(folder: Path) -> tuple[RecipeFile, ...]:
    """Each is read once: a run resolves several recipes."""
    return tuple(read_recipe_file(path) for path in sorted(folder.glob("*.yaml")))


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
    if {"format", "recipe", "stages"} <= value.keys():
        return _of_lock(path, value)
    header = {key: value.pop(key, None) for key in _HEADER}
    models, config = header["models"], header["config"]
    return RecipeFile(
        name=path.stem,
        family=str(header["family"] or ""),
        models=tuple(models) if isinstance(models, list | tuple | str) else (),
        about=str(header["about"] or "").strip(),
        options=value,
        path=path,
        extends=str(header["extends"] or ""),
        config=config if isinstance(config, dict) else {},
        run_with=str(header["run_with"] or ""),
    )


def _of_lock(path: Path, lock: Mapping[str, object]) -> RecipeFile:
    """The recipe of a recipe.lock.yaml."""
    options = lock["recipe"]
    if lock["format"] != LOCK_FORMAT:
        raise InputError(f"{path} is of format {lock['format']}; this diffc reads {LOCK_FORMAT}")
    if not isinstance(options, dict):
        raise InputError(f"{path} is damaged: it has no 'recipe'")
    return RecipeFile(path.stem, "", (), "", options, path, is_whole=True)


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
