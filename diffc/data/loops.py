"""The loops of a run: what its recipe names, with everything settled that it leaves to the model.

    run_loops     the loops of both sides, from the recipe and a scheduler's config
    check_loops   refuse what the model cannot do, before the first stage

Imports no torch: the second half of a run asks too, from the engines' descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffc.data.guidance import decide_guidance, takes_guidance
from diffc.data.student_loops import student_loops
from diffc.data.tensors import is_tensors
from diffc.errors import RequestError
from diffc.models.config_values import reading_config
from diffc.models.families import family
from diffc.models.schedulers import fitting_steps, steps_note, train_steps
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc_runtime.errors import BadRequest
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import DETERMINISTIC, Loop

STEPS = 50
"""Where a loop names none; fewer for a model of fewer timesteps."""


@dataclass(frozen=True)
class RunLoops:
    """The loops of a run, in which nothing is left open but the spacing.

    Attributes:
        loops: The compressed model's.
        reference: The dense model's, whose images the others are compared with.
    """

    loops: tuple[Loop, ...]
    reference: Loop

    @property
    def first(self) -> Loop:
        """The first of the compressed model's loops: it is judged, timed and served."""
        return self.loops[0]

    def of(self, side: str) -> Loop:
        """The loop of ``dense`` or ``compressed`` images."""
        return self.reference if side == "dense" else self.first


def run_loops(recipe: Recipe, config: JsonObject, guidance: float = 1.0) -> RunLoops:
    """Return the loops of a run.

    Args:
        recipe: Its options.
        config: The content of scheduler_config.json, of the source or of an engine.
        guidance: Of loops that say nothing; 1 where there are no null conditions.
    """

    def settled(loop: Loop) -> Loop:
        return loop.settled(config, steps=fitting_steps(config, STEPS), guidance=guidance)

    reference = settled(_reference(recipe))
    if recipe.distill.aim == "loop":  # the student serves what it learned, and carries the guidance
        return RunLoops(student_loops(recipe.loops, config, guidance).loops, reference)
    named = tuple(settled(Loop.parse(text)) for text in recipe.loops)
    return RunLoops(named or (reference,), reference)


def check_loops(source: Source, recipe: Recipe) -> list[str]:
    """Refuse loops that the model cannot be sampled with; return notes.

    Raises:
        RequestError: The noising process forbids the sampler, the model has fewer timesteps, or
            there is guidance without null conditions. The message names the loop.
        InputError: A value of the scheduler's config is none that can be used.
    """
    config, given = source.scheduler, recipe.data.guidance
    notes: list[str] = []
    if given is not None and not takes_guidance(source) and family(source.class_name).is_guided:
        _check_null_conditions(source, recipe, f"--guidance {given:g}", given)
    for flag, loop in _named(recipe):
        _check_guidance(source, recipe, f"{flag} {loop}", loop)
        if loop.steps is None and not notes:
            notes = steps_note(config, "steps of the loop", STEPS)
    loops = run_loops(recipe, config)
    for loop in dict.fromkeys((loops.reference, *loops.loops)):
        words = _why_impossible(loop, config)
        if words is not None:
            flag = "--reference-loop" if loop == loops.reference else "--loop"
            raise RequestError(f"{flag} {loop.sampler}:{loop.steps}: {words}")
    return notes


def _why_impossible(loop: Loop, config: JsonObject) -> str | None:
    """Why the noising process forbids a settled loop; None where it allows it."""
    most = train_steps(config)
    if loop.steps is not None and loop.steps > most:
        return f"{loop.steps} steps are more than the model's {most} timesteps"
    try:
        with reading_config(str(config.get("_class_name", "")), config):
            loop.trajectory(config)
    except BadRequest as error:
        return str(error).replace("scheduler '", "'")
    return None


def _reference(recipe: Recipe) -> Loop:
    return Loop.parse(recipe.reference_loop or DETERMINISTIC)


def _named(recipe: Recipe) -> Iterator[tuple[str, Loop]]:
    """The recipe's loops as they were written, and the flags that give them."""
    yield "--reference-loop", _reference(recipe)
    yield from (("--loop", Loop.parse(text)) for text in recipe.loops)


def _check_guidance(source: Source, recipe: Recipe, words: str, loop: Loop) -> None:
    if loop.guidance is None or loop.guidance == 1:
        return
    reason = decide_guidance(source, loop.guidance).reason
    if reason is not None:
        raise RequestError(f"{words}: this model has no guidance: {reason}")
    _check_null_conditions(source, recipe, words, loop.guidance)


def _check_null_conditions(source: Source, recipe: Recipe, words: str, guidance: float) -> None:
    """Refuse a scale that ``words`` give, where nothing is there to guide away from."""
    own = family(source.class_name)
    has_null = own.null_conditions(source.config) or recipe.data.prompts is not None
    if guidance == 1 or has_null or is_tensors(recipe.data.source):
        return
    hint = "leave it out: this model takes no conditions"
    if own.text_places:
        hint = "--prompts brings them, or a --data file with null.NAME"
    elif own.class_count(source.config):
        hint = "a --data file with null.NAME brings them"
    raise RequestError(f"{words}: guidance needs null conditions, and this run has none", hint=hint)
