"""How long the stages of a run will take: by an earlier run, or else by the rate of the calls."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from diffc.durations import expected_seconds, known_rate
from diffc.launch import is_launched
from diffc.models.source import Source
from diffc.output import is_output
from diffc.recipe import Recipe
from diffc.runner import Needs, StageEvent
from diffc.stages.preflight import PREFLIGHT
from diffc_export.events import map_events


def expected_work(
    source: Source, recipe: Recipe, out: Path, stop: str, estimated: bool
) -> Generator[StageEvent, None, StageEvent]:
    """Tell what the run will take; returns the event that ends the checks.

    Args:
        source: The model.
        recipe: Every option.
        out: The output folder.
        stop: The last stage.
        estimated: Whether calls of the network may be timed where nothing else tells.
    """
    earlier = expected_seconds(source.digest, recipe, stop)
    if earlier or not estimated or is_launched():
        return StageEvent(PREFLIGHT, "passed", expected=earlier, by="an earlier run")
    from diffc.stages.call_rate import measure_rate
    from diffc.stages.estimate import out_bytes, stage_seconds

    rate = known_rate(source.class_name, source.config, recipe)
    unsure = rate is None or rate.shared
    if unsure and not is_output(out):  # what OUT holds may be all there is to do
        measured = yield from map_events(
            measure_rate(source, recipe),
            lambda step: StageEvent(PREFLIGHT, "progress", progress=step),
        )
        rate = measured or rate
    if rate is None:
        return StageEvent(PREFLIGHT, "passed")
    small = round(rate.params * (1 - recipe.prune.ratio))
    needs = Needs(
        _training_bytes(source, recipe, rate.params, small) if stop != "plan" else {},
        out_bytes(rate.params, small, len(recipe.build.target)),
    )
    expected = stage_seconds(source, recipe, stop, rate)
    return StageEvent(
        PREFLIGHT, "passed", expected=expected, by=rate.words, rough=rate.shared, needs=needs
    )


def _training_bytes(source: Source, recipe: Recipe, dense: int, small: int) -> dict[str, int]:
    """Of each training. Only their calls are counted, for that takes seconds."""
    from diffc.stages.call_memory import call_bytes
    from diffc.stages.estimate import trainings

    stages = trainings(dense, small, recipe, {})
    calls = call_bytes(source, recipe, only=stages)
    each = trainings(dense, small, recipe, calls)
    if recipe.prune.removes_nothing:  # what no cut has changed learns a loop alone
        each.pop("distill", None)
    return each
