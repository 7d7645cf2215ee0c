"""What can be refused before the first stage, from the recipe, the configs and the files' headers.

    quick_checks   of the request, the folders and the targets; without torch
    model_checks   of the model on the meta device; its weights are not read

A stage never has to be the first to find out that it lacks something: a check that can be made from
these belongs here, so that nothing is refused after hours of work. ``plan``, ``inspect`` and
``diffc.load`` ask the same questions of the model.
"""

from __future__ import annotations

from pathlib import Path

from diffc.chain import back, front
from diffc.models.resolutions import check_resolution
from diffc.models.source import Source
from diffc.output import claim
from diffc.recipe import Recipe


def preflight(source: Source, recipe: Recipe, out: Path, stop: str) -> list[str]:
    """Refuse what a run up to ``stop`` could not do; nothing is written.

    Returns:
        What the user should know of the run that follows, one sentence each.

    Raises:
        RequestError, InputError, UnavailableError: with what is wrong and what would do.
    """
    return [*quick_checks(source, recipe, out, stop), *model_checks(source, recipe)]


def quick_checks(source: Source, recipe: Recipe, out: Path, stop: str) -> list[str]:
    """The checks that need neither torch nor the model's classes; returns notes."""
    check_resolution(source.class_name, source.config, recipe.export.resolution or ())
    claim(out, source)
    if stop in ("build", "bench"):
        back.check_targets(recipe.build)
    if recipe.distill.trackers and stop != "plan":
        from diffc.distill.setup import check_trackers

        check_trackers(recipe.distill.trackers)
    bench = front.latency_bench(recipe)
    if bench is not None:
        bench.check()
    return []


def model_checks(source: Source, recipe: Recipe) -> list[str]:
    """The checks of the model's components, on the meta device; returns notes."""
    return []
