"""resolve: defaults, the family's recipe, a recipe file and flags become one Recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from diffc.errors import RequestError
from diffc.recipe.files import RECIPES, RecipeFile, read_recipe_file, recipe_file, recipe_files
from diffc.recipe.recipe import Recipe
from diffc.recipe.sections.prune import of_widths_alone
from diffc.recipe.validation import validate
from diffc_export.disks import user_path

Layer = Mapping[str, object]
"""Options nested as a Recipe is, of which any may be absent."""


def resolve(
    *,
    family: str,
    model: str = "",
    config: Layer | None = None,
    recipe: str | Path | None = None,
    flags: Layer | None = None,
    base: Layer | None = None,
) -> Recipe:
    """The recipe for a model of ``family``: defaults < family's recipe < ``recipe`` < ``flags``.

    Args:
        family: the denoiser's class; "" for none, which has no recipe of its own.
        model: the model's name, since some models have a recipe of their own.
        config: the denoiser's config.json, by which such a model is recognised under any name.
        recipe: a shipped recipe's name, a YAML file, or a recipe.lock.yaml, which holds every
            option and so replaces what lies below it.
        flags: nested as a recipe is; None means that a value is not given.
        base: the recipe that an output folder was made with; it replaces the family's recipe.

    Raises:
        RequestError: a key is unknown (the error has the nearest known key), or a value is wrong.
        InputError: the recipe file cannot be read.
    """
    layers = [_family_layer(family, model, config or {}) if base is None else base]
    where, by_hand = "the options", set(_set_options(flags or {}))
    if recipe is not None:
        where = f"recipe {recipe}"
        chain = _extended(_named(recipe))
        _check_family(chain[0], family)
        for file in reversed(chain):
            where = str(file.path) if _is_path(recipe) else where
            layers = [] if file.is_whole else layers
            layers.append({key: value for key, value in file.options.items() if value is not None})
            by_hand |= set() if file.path.parent == RECIPES else set(_set_options(file.options))
    layers.append(_without_none(flags or {}))
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    _clear_overrides(merged.get("build"), layers[-1].get("build"))
    if "prune.cut" not in by_hand:
        _settle_cut(merged)
    resolved = validate(Recipe, merged, where)
    resolved.note_by_hand(by_hand)
    return resolved


def _set_options(layer: Layer, before: str = "") -> Iterator[str]:
    """The paths of the options that a layer sets: ``distill.steps``."""
    for name, value in layer.items():
        if isinstance(value, Mapping):
            yield from _set_options(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}"


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


def _settle_cut(merged: dict[str, object]) -> None:
    """Drop a family's cut of depth where an option of the user's own knows widths alone."""
    prune = merged.get("prune")
    if isinstance(prune, Mapping) and (
        of_widths_alone(prune) or merged.get("shard") in ("on", True)
    ):
        merged["prune"] = {name: value for name, value in prune.items() if name != "cut"}


def recognised(family: str, model: str, config: Layer) -> RecipeFile | None:
    """The recipe of a model of another name whose config this is; None where there is none."""
    files = [file for file in recipe_files() if file.family == family]
    if any(model in file.models for file in files):
        return None
    return next((file for file in files if file.recognises(config)), None)


def _family_layer(family: str, model: str, config: Layer) -> Layer:
    """The recipe that is for the model, on top of its family's (the one that names no model)."""
    merged: dict[str, object] = {}
    files = [file for file in recipe_files() if file.family == family]
    own = recognised(family, model, config)
    for file in sorted(files, key=lambda file: bool(file.models)):
        if not file.models or model in file.models or (own and file.name == own.name):
            merged = _merge(merged, file.options)
    return merged


def _is_path(recipe: str | Path) -> bool:
    path = user_path(recipe, "recipe")
    return path.suffix in (".yaml", ".yml") or path.is_file()


def _named(recipe: str | Path, beside: Path | None = None) -> RecipeFile:
    """The recipe that the user named; a file that a recipe extends is named from where that lies.

    Raises:
        RequestError: there is no such file or recipe.
    """
    if not _is_path(recipe):
        return recipe_file(str(recipe))
    path = user_path(recipe) if beside is None else beside.parent / user_path(recipe)
    if not path.is_file():
        raise RequestError(f"there is no recipe file '{path}'")
    return read_recipe_file(path)


def _extended(file: RecipeFile) -> list[RecipeFile]:
    """The recipe, the one that it extends, the one that this extends, and so on.

    Raises:
        RequestError: one of them extends itself in the end.
    """
    chain = [file]
    while chain[-1].extends:
        below = _named(chain[-1].extends, chain[-1].path)
        if any(below.path.resolve() == above.path.resolve() for above in chain):
            raise RequestError(f"{file.path} extends itself: {chain[-1].extends}")
        chain.append(below)
    return chain


def _check_family(file: RecipeFile, family: str) -> None:
    """Raise RequestError where a recipe names another family than the model's."""
    if not family or file.family in ("", family):
        return
    fitting = [one.name for one in recipe_files() if one.family == family]
    raise RequestError(
        f"recipe {file.name} is for models of {file.family}, and this model is a {family}",
        hint=f"recipes for it: {', '.join(fitting)}" if fitting else "leave --recipe out",
    )


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
