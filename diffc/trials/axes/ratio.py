"""The share that is removed."""

from __future__ import annotations

from diffc.errors import RequestError
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.recipe.words import as_fraction
from diffc.trials.axes.base import SearchAxis


class RatioAxis(SearchAxis):
    """``prune.ratio`` of a recipe."""

    name, flag, level = "ratio", "--ratio", "model"

    def defaults(self, source: Source, recipe: Recipe) -> list[str]:
        """A little, a third, a half."""
        return ["0.2", "0.35", "0.5"]

    def parse(self, text: str) -> str:
        """'0.35' for '35%'."""
        try:
            share = float(str(as_fraction(text)))
        except ValueError:
            raise RequestError(f"--ratio {text}: not a share such as 0.3 or 30%") from None
        if not 0 < share < 1:
            raise RequestError(f"--ratio {text}: not a share between 0 and 1")
        return f"{share:g}"

    def apply(self, recipe: Recipe, word: str) -> Recipe:
        """The recipe with this ratio."""
        prune = recipe.prune.model_copy(update={"ratio": float(word)})
        return recipe.model_copy(update={"prune": prune})

    def no_worse(self, one: str, other: str) -> bool:
        """True where ``one`` removes no more than ``other``."""
        return float(one) <= float(other)


AXIS = RatioAxis()
