"""resolve: defaults, the family's recipe, a recipe file and flags become one Recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffc.errors import RequestError
from diffc.recipe.files import read_recipe_file, recipe_file, recipe_files
from diffc.recipe.recipe import Recipe
from diffc.recipe.validation import validate
from diffc_export.disks import user_path

Layer = Mapping[str, object]
"""Options nested as a Recipe is, of which any may be absent."""


def resolve(
    *,
    family: str,
    model: str = "",
    recipe: str | Path | None = None,
    flags: Layer | None = None,
    base: Layer | None = None,
) -> Recipe:
    """The recipe for a model of ``family``: defaults < family's recipe < ``recipe`` < ``flags``.

    Args:
        family: the denoiser's class; "" for none, which has no recipe of its own.
        model: the model's name, since some models have a recipe of their own.
        recipe: a shipped recipe's name or a YAML file.
        flags: nested as a recipe is; None means that a value is not given.
        base: the recipe that an output folder was made with; it replaces the family's recipe.

    Raises:
        RequestError: a key is unknown (the error has the nearest known key), or a value is wrong.
        InputError: the recipe file cannot be read.
    """
    layers = [_family_layer(family, model) if base is None else base]
    where = "the flags"
    if recipe is not None:
        layer, where = _file_layer(recipe)
        layers.append(layer)
    layers.append(_without_none(flags or {}))
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    _clear_overrides(merged.get("build"), layers[-1].get("build"))
    return validate(Recipe, merged, where)


def _clear_overrides(build: object, flags: object) -> None:
    """Drop the single targets' values of every given flag: a flag is for every target."""
    if not isinstance(build, dict) or not isinstance(build.get("each"), Mapping):
        return
    given = set(flags) - {"each"} if isinstance(flags, Mapping) else set()
    build["each"] = {
        name: {key: value for key, value in overrides.items() if key not in given}
        for name, overrides in build["each"].items()
        if isinstance(overrides, Mapping)
    }


def _family_layer(family: str, model: str) -> Layer:
    """The recipe that names the model, on top of its family's (the one that names no model)."""
    merged: dict[str, object] = {}
    files = [file for file in recipe_files() if file.family == family]
    for file in sorted(files, key=lambda file: bool(file.models)):
        if not file.models or model in file.models:
            merged = _merge(merged, file.options)
    return merged


def _file_layer(recipe: str | Path) -> tuple[Layer, str]:
    """The options of a recipe that the user named, and what to call it in an error."""
    path = user_path(recipe)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise RequestError(f"there is no recipe file '{path}'")
        options = read_recipe_file(path).options
        return {key: value for key, value in options.items() if value is not None}, str(path)
    return recipe_file(str(recipe)).options, f"recipe {recipe}"


def _merge(below: Layer, above: Layer) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merge(inner, value)
        else:
            merged[key] = value
    return merged


def _without_none(flags: Layer) -> dict[str, object]:
    given: dict[str, object] = {}
    for key, value in flags.items():
        if isinstance(value, Mapping):
            given[key] = _without_none(value)
        elif value is not None:
            given[key] = value
    return given
