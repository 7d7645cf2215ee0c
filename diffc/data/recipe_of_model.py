"""The recipe of a run of a model: the options, and the prompts that the model ships with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffc.data.tensors import is_tensors
from diffc.launch import fsdp_is_configured, is_launched
from diffc.models.shipped import shipped_prompts
from diffc.models.source import Source
from diffc.recipe import Recipe, resolve


def recipe_of_model(
    source: Source, recipe: str | Path | None, flags: Mapping[str, object]
) -> Recipe:
    """The recipe that ``resolve`` gives for ``source``, with its own prompts where none are named.

    A file of tensors holds the conditions itself, so that prompts stay out beside it. A family's
    cut of depth gives way in a launch that shards: branches are scored on whole networks.

    Args:
        source: The model.
        recipe: A shipped recipe's name, a YAML file or a recipe.lock.yaml.
        flags: Nested as a recipe is.

    Raises:
        RequestError: A key is unknown, or a value is wrong.
        InputError: The recipe file cannot be read.
    """
    chosen = resolve(
        family=source.class_name,
        model=source.name,
        config=source.config,
        recipe=recipe,
        flags=flags,
    )
    shards = is_launched() and fsdp_is_configured() and chosen.shard == "auto"
    if shards and chosen.prune.cuts_depth and "prune.cut" not in chosen.by_hand:
        prune = chosen.prune.model_copy(update={"cut": "width"})
        chosen = chosen.model_copy(update={"prune": prune})
    prompts = shipped_prompts(source.name)
    if prompts is None or chosen.data.prompts is not None or is_tensors(chosen.data.source):
        return chosen
    data = chosen.data.model_copy(update={"prompts": str(prompts)})
    return chosen.model_copy(update={"data": data})
