"""The candidates of a search, and the recipe of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from diffc.errors import RequestError
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.trials.axes import AXES, Level, SearchAxis

Choice: TypeAlias = tuple[tuple[str, str], ...]
"""Values of some axes: (axis, word), in the order of ``AXES``."""

_LEVELS: tuple[Level, ...] = ("model", "engine", "loop")
_MOST = 500


@dataclass(frozen=True)
class Space:
    """What is searched over.

    Attributes:
        recipe: Every other option, of one target.
        axes: The axes.
        values: Axis -> its words.
        notes: What was chosen so that the trainings fit into memory.
    """

    recipe: Recipe
    axes: tuple[SearchAxis, ...]
    values: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Source, recipe: Recipe, given: Mapping[str, Sequence[str]]) -> Space:
        """The space of the given values, and of the axes' defaults where none are given.

        Args:
            source: The dense model.
            recipe: The other options, of one target.
            given: Axis -> its values as they were typed.

        Raises:
            RequestError: A value is none of its axis, or there are too many candidates.
        """
        values = {}
        for axis in AXES:
            texts = list(given.get(axis.name) or axis.defaults(source, recipe))
            if texts:
                values[axis.name] = tuple(dict.fromkeys(axis.parse(text) for text in texts))
        space = cls(recipe, tuple(axis for axis in AXES if axis.name in values), values)
        if len(space.candidates) > _MOST:
            raise RequestError(
                f"{space.size_words()} are {len(space.candidates)} points: at most {_MOST} are "
                "measured in one search"
            )
        return space

    @property
    def candidates(self) -> list[Choice]:
        """Every candidate: a value of each axis."""
        names = [axis.name for axis in self.axes]
        words = product(*(self.values[name] for name in names))
        return [tuple(zip(names, one, strict=True)) for one in words]

    def size_words(self) -> str:
        """'3 ratios x 2 precisions x 5 loops'."""
        counts = [(axis.name, len(self.values[axis.name])) for axis in self.axes]
        return " x ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts)

    def network(self, choice: Choice) -> Choice:
        """The values that change the network, whatever the training."""
        return self._part(choice, {axis.name for axis in self.axes if axis.level == "model"})

    def trained(self, choice: Choice) -> Choice:
        """The values that a training is for: candidates that share them share the trained model."""
        own = {axis.name for axis in self.axes if axis.level_in(self.recipe) == "model"}
        return self._part(choice, own)

    def engine(self, choice: Choice) -> Choice:
        """The values that an engine is built for, whatever the training."""
        up_to = _LEVELS[: _LEVELS.index("engine") + 1]
        return self._part(choice, {axis.name for axis in self.axes if axis.level in up_to})

    def _part(self, choice: Choice, names: set[str]) -> Choice:
        return tuple(pair for pair in choice if pair[0] in names)

    def apply(self, choice: Choice) -> Recipe:
        """The recipe with these values."""
        recipe, words = self.recipe, dict(choice)
        for axis in self.axes:
            if axis.name in words:
                recipe = axis.apply(recipe, words[axis.name])
        return recipe

    def no_worse(self, one: Choice, other: Choice) -> bool:
        """Whether ``one`` is expected to be as close to the dense model, on every axis."""
        ours, theirs = dict(one), dict(other)
        return all(axis.no_worse(ours[axis.name], theirs[axis.name]) for axis in self.axes)


def words_of(choice: Choice) -> str:
    """'0.35 fp16 dpm++:8'."""
    return " ".join(word for _, word in choice)


def word(choice: Choice, axis: str) -> str:
    """The value of one axis."""
    return dict(choice)[axis]
