"""What a run asks of the model's scheduler before its first stage."""

from __future__ import annotations

from diffc.data.guidance import guidance_notes
from diffc.data.loops import check_loops
from diffc.data.tensors import is_tensors
from diffc.errors import InputError
from diffc.models.config_values import reading_config
from diffc.models.schedulers import check_scheduler, steps_note
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.stages.data import is_drawn

_TRIED_STEPS = 2
"""So many steps are sampled before the first stage."""


def noise_checks(source: Source, recipe: Recipe) -> list[str]:
    """Refuse a scheduler that diffc does not know; without torch.

    Returns:
        A note for each number of steps that the model has too few timesteps for.

    Raises:
        InputError: no scheduler, or one of a class or with settings that diffc does not know.
    """
    check_scheduler(source.scheduler)
    notes = guidance_notes(source, recipe.data.guidance) if _is_guided(recipe) else []
    notes += [*recipe.older_notes, *check_loops(source, recipe)]
    if is_drawn(recipe.data.source):
        notes += steps_note(source.scheduler, "steps of the synthetic data", recipe.data.steps)
    return notes


def _is_guided(recipe: Recipe) -> bool:
    """Whether the data can hold null conditions."""
    return recipe.data.prompts is not None or is_tensors(recipe.data.source)


def process_checks(source: Source, shape: tuple[int, ...]) -> None:
    """Noise and sample once, so that no value of the scheduler's config fails in a later stage.

    Noise levels that are no numbers, such as those of one timestep rescaled to no signal, are
    refused as well.

    Args:
        shape: of a sample without the batch.

    Raises:
        InputError: with the scheduler's class.
    """
    import torch

    from diffc.data.sampling import deterministic_loop, sample
    from diffc.models.diffusion import process_from_scheduler

    with reading_config(str(source.scheduler.get("_class_name", "")), source.scheduler):
        process = process_from_scheduler(source.scheduler)
        loop = deterministic_loop(source.scheduler, _TRIED_STEPS)
        sample(lambda x, t: x, loop, torch.zeros(1, *shape))
    if not all(torch.isfinite(level).all() for level in (process.signal, process.noise)):
        name = source.scheduler["_class_name"]
        raise InputError(
            f"the config of {name} gives noise levels that are no numbers",
            hint="check num_train_timesteps and the betas in scheduler_config.json",
        )
