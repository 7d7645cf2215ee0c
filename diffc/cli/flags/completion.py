"""What completion offers for a flag's value or an argument: names, the recipe's words, folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffc.cli.flags.flag import Flag


def completer(flag: Flag) -> Callable[[str], list[str]]:
    """What typer calls with the text before the cursor."""

    def offer(incomplete: str) -> list[str]:
        return matching(_values(flag), incomplete)

    return offer


def matching(values: Iterable[str], incomplete: str) -> list[str]:
    """The values that begin with ``incomplete``, or with what follows its last comma."""
    before, comma, begun = incomplete.rpartition(",")
    given = before.split(",")
    return [
        before + comma + value
        for value in values
        if value.lower().startswith(begun.lower()) and value not in given
    ]


def _values(flag: Flag) -> Iterable[str]:
    if flag.values is not None:
        return flag.values()
    return recipe_words(flag.path) if flag.path is not None else ()


def recipe_words(path: str) -> list[str]:
    """The words that the recipe's option at ``path`` takes; [] where it takes other values."""
    from diffc.recipe import Recipe
    from diffc.recipe.sections.base import literal_words

    kind: object = Recipe
    for name in path.split("."):
        fields = getattr(kind, "model_fields", {})
        kind = fields[name].annotation if name in fields else None
    return literal_words(kind)


def target_names() -> Iterable[str]:
    """The targets."""
    from diffc_export import targets

    return targets.names()


def layout_names() -> Iterable[str]:
    """The layouts of other libraries."""
    from diffc.layouts.known import LAYOUTS

    return LAYOUTS


def recipe_names() -> Iterable[str]:
    """The shipped recipes, and the YAML files of the working directory."""
    from diffc.recipe.files import RECIPES

    here = sorted(path.name for path in Path().glob("*.yaml"))
    return [*sorted(path.stem for path in RECIPES.glob("*.yaml")), *here]


def shipped_recipes() -> Iterable[str]:
    """The shipped recipes."""
    from diffc.recipe.files import RECIPES

    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def models_here() -> Iterable[str]:
    """The models that ship, and the folders of the working directory."""
    from diffc.models.shipped import shipped_models

    return [*shipped_models(), *folders_here()]


def folders_here() -> Iterable[str]:
    """The folders of the working directory."""
    return sorted(path.name for path in Path().iterdir() if path.is_dir() and path.name[0] != ".")


def data_here() -> Iterable[str]:
    """``synthetic``, and the folders of the working directory."""
    return ["synthetic", *folders_here()]


def loop_names() -> Iterable[str]:
    """The samplers, to which steps are added: dpm++:8."""
    from diffc_runtime.loop import DETERMINISTIC, OWN
    from diffc_runtime.schedulers import NAMES

    return [OWN, DETERMINISTIC, *NAMES]


def sampler_names() -> Iterable[str]:
    """The samplers alone."""
    from diffc_runtime.schedulers import NAMES

    return NAMES


def precisions() -> Iterable[str]:
    """The precisions that can be named; ``auto`` is a choice among them."""
    return [word for word in recipe_words("build.precision") if word != "auto"]


def workers() -> Iterable[str]:
    """Who can train for a search."""
    return ["ray", "ray://"]


def metric_names() -> Iterable[str]:
    """The metrics of quality."""
    from diffc.measure.quality import metric_names as names

    return names()


def score_names() -> Iterable[str]:
    """The scores of importance."""
    from diffc.prune.importance import score_names as names

    return names()


def family_names() -> Iterable[str]:
    """The denoisers' classes."""
    from diffc.models.families import family_names as names

    return names()


def gpu_names() -> Iterable[str]:
    """Compute capabilities and the names of cards."""
    from diffc_export.gpu_names import CARDS

    return sorted({*CARDS.values(), *CARDS})


def server_names() -> Iterable[str]:
    """The servers that a bundle is written for."""
    from diffc.bundle.build import SERVERS

    return list(SERVERS)


def sides() -> Iterable[str]:
    """The two models of a run."""
    return ("compressed", "dense")
