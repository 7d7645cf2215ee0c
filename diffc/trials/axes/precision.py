"""The precision of the engine."""

from __future__ import annotations

from typing import get_args

from diffc.errors import unknown
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.recipe.sections.build import Precision
from diffc.stages.precision import ORDER
from diffc.trials.axes.base import SearchAxis


class PrecisionAxis(SearchAxis):
    """``build.precision`` of a recipe, without ``auto``: the search itself compares precisions."""

    name, flag, level = "precision", "--precision", "engine"

    def defaults(self, source: Source, recipe: Recipe) -> list[str]:
        """fp32, then fp16 and bf16 where the recipe's target has them on this machine."""
        from diffc_export.targets import target

        (name,) = recipe.build.target
        has = target(name).precisions()
        return [ORDER[0], *(word for word in ("fp16", "bf16") if word in has)]

    def parse(self, text: str) -> str:
        """The precision in the recipe's spelling."""
        word, known = text.strip().lower(), [one for one in get_args(Precision) if one != "auto"]
        if word not in known:
            raise unknown("precision", text, known)
        return word

    def apply(self, recipe: Recipe, word: str) -> Recipe:
        """The recipe with this precision."""
        build = recipe.build.model_copy(update={"precision": word})
        return recipe.model_copy(update={"build": build})

    def no_worse(self, one: str, other: str) -> bool:
        """True where ``one`` is as exact a number format as ``other``."""
        return ORDER.index(one) <= ORDER.index(other)


AXIS = PrecisionAxis()
