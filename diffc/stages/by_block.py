"""Whether the importance is measured block by block: where the whole network has no room."""

from __future__ import annotations

from diffc.launch import process_count
from diffc.models.source import Source
from diffc.prune.importance import own_score_names
from diffc.recipe import ImportanceSection, Recipe
from diffc.stages.counted_stages import WITHOUT_GRADIENTS
from diffc.stages.needs import first_lack, row_by_row
from diffc_runtime.machine.out_of_memory import size

IMPORTANCE = "importance"


def may_be_by_block(options: ImportanceSection) -> bool:
    """Whether diffc may choose it: of its own scores that take gradients.

    Args:
        options: The recipe's ``prune.importance``.
    """
    own = options.method in own_score_names() and options.method not in WITHOUT_GRADIENTS
    return own and options.by_block == "auto"


def choose_by_block(source: Source, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Decide what the recipe leaves to diffc.

    Of several processes none is alone with the network: they may share it.

    Args:
        source: The model.
        recipe: Every option.

    Returns:
        The recipe, and a sentence where the blocks are worked one at a time.
    """
    options = recipe.prune.importance
    if not may_be_by_block(options):
        return recipe, []
    lack = None
    if process_count() == 1:
        lack = first_lack(source, row_by_row(with_by_block(recipe, "off")), (IMPORTANCE,))
    if lack is None:
        return with_by_block(recipe, "off"), []
    words = (
        f"the importance is measured block by block: with the whole network it needs about "
        f"{size(lack.needed)} of memory, {lack.place} has {size(lack.there)}"
    )
    return with_by_block(recipe, "on"), [words]


def with_by_block(recipe: Recipe, choice: str) -> Recipe:
    """The recipe with another ``prune.importance.by_block``."""
    own = recipe.prune.importance.model_copy(update={"by_block": choice})
    return recipe.model_copy(update={"prune": recipe.prune.model_copy(update={IMPORTANCE: own})})
