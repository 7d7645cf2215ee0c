"""The loop: sampler, steps, guidance, spacing."""

from __future__ import annotations

from dataclasses import replace

from diffc.errors import RequestError
from diffc.measure.frontier.loops import samplers
from diffc.models.schedulers import is_flow, train_steps
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.trials.axes.base import Level, SearchAxis
from diffc_runtime.errors import BadRequest
from diffc_runtime.loop import Loop

STEPS = (12, 8, 6, 4, 3)
"""Steps of the second-order sampler where no loop is named: few, since cutting pays there."""
LEARNED_STEPS = (4, 2, 1)
"""Steps of the model's own sampler where no loop is named and the student learns its loop."""


class LoopAxis(SearchAxis):
    """``loops`` of a recipe; a candidate has one, and a student of loops is trained for it."""

    name, flag, level = "loop", "--loop", "loop"

    def defaults(self, source: Source, recipe: Recipe) -> list[str]:
        """Loops of few steps: ``STEPS``, or ``LEARNED_STEPS``."""
        config = source.scheduler
        most = train_steps(config)
        if recipe.distill.aim == "loop":
            return [f"own:{steps}" for steps in LEARNED_STEPS if steps <= most]
        _, second = samplers(config)
        spacing = None if is_flow(config) else "trailing"
        return [str(Loop(second, steps, None, spacing)) for steps in STEPS if steps <= most]

    def parse(self, text: str) -> str:
        """The loop in its own spelling."""
        try:
            loop = Loop.parse(text)
        except BadRequest as error:
            raise RequestError(f"--loop: {error}") from None
        if loop.steps is None:
            raise RequestError(
                f"--loop {text}: a loop of a search names its steps", hint=f"--loop {text}:8"
            )
        return str(loop)

    def apply(self, recipe: Recipe, word: str) -> Recipe:
        """The recipe with this loop alone."""
        return recipe.model_copy(update={"loops": (word,)})

    def no_worse(self, one: str, other: str) -> bool:
        """True where ``one`` has as many steps of the same sampler, spacing and guidance."""
        ours, theirs = Loop.parse(one), Loop.parse(other)
        same = replace(ours, steps=None) == replace(theirs, steps=None)
        return same and (ours.steps or 0) >= (theirs.steps or 0)

    def level_in(self, recipe: Recipe) -> Level:
        """``model`` where the student learns its loop."""
        return "model" if recipe.distill.aim == "loop" else self.level


AXIS = LoopAxis()
