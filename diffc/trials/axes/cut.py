"""What may go: channels, branches, or both."""

from __future__ import annotations

from diffc.models.source import Source
from diffc.recipe import PruneSection, Recipe, validate
from diffc.trials.axes.base import SearchAxis


class CutAxis(SearchAxis):
    """``prune.cut`` of a recipe. Without values of its own it is no axis of the search."""

    name, flag, level = "cut", "--cut", "model"

    def defaults(self, source: Source, recipe: Recipe) -> list[str]:
        """An empty list: every candidate has the recipe's value."""
        return []

    def parse(self, text: str) -> str:
        """'width,depth' for 'Depth, width'."""
        return validate(PruneSection, {"cut": text}, self.flag).cut

    def apply(self, recipe: Recipe, word: str) -> Recipe:
        """The recipe with this cut.

        Raises:
            RequestError: Another option knows widths alone.
        """
        prune = {**recipe.prune.model_dump(mode="json"), "cut": word}
        return recipe.model_copy(update={"prune": validate(PruneSection, prune, self.flag)})

    def no_worse(self, one: str, other: str) -> bool:
        """Equal values alone: whether depth or width costs more closeness is not known."""
        return one == other


AXIS = CutAxis()
