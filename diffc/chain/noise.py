"""What a run asks of the model's scheduler before its first stage."""

from __future__ import annotations

from diffc.chain.data import is_drawn
from diffc.data.guidance import guidance_notes
from diffc.data.tensors import is_tensors
from diffc.errors import InputError
from diffc.models.schedulers import check_scheduler, steps_note
from diffc.models.source import Source
from diffc.recipe import Recipe


def noise_checks(source: Source, recipe: Recipe) -> list[str]:
    """Refuse a scheduler that diffc does not know; without torch.

    Returns:
        A note for each number of steps that the model has too few timesteps for.

    Raises:
        InputError: no scheduler, or one of a class or with settings that diffc does not know.
    """
    check_scheduler(source.scheduler)
    notes = guidance_notes(source, recipe.data.guidance) if _is_guided(recipe) else []
    notes += steps_note(source.scheduler, "steps of the compared samples", recipe.quality.steps)
    if is_drawn(recipe.data.source):
        notes += steps_note(source.scheduler, "steps of the synthetic data", recipe.data.steps)
    return notes


def _is_guided(recipe: Recipe) -> bool:
    """Whether the data can hold null conditions."""
    return recipe.data.prompts is not None or is_tensors(recipe.data.source)


def process_checks(source: Source) -> None:
    """Refuse noise levels that are no numbers, such as those of one timestep rescaled to no signal.

    Raises:
        InputError: with the scheduler's class.
    """
    import torch

    from diffc.models.diffusion import process_from_scheduler

    process = process_from_scheduler(source.scheduler)
    if not all(torch.isfinite(level).all() for level in (process.signal, process.noise)):
        name = source.scheduler["_class_name"]
        raise InputError(
            f"the config of {name} gives noise levels that are no numbers",
            hint="check num_train_timesteps and the betas in scheduler_config.json",
        )
