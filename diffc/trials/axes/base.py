"""SearchAxis: one thing that a search has several values of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from diffc.models.source import Source
from diffc.recipe import Recipe

Level = Literal["model", "engine", "loop"]


class SearchAxis(ABC):
    """One axis. A value is a word, as people type it.

    Attributes:
        name: Its name in tables, in search.json and in ``diffc.search``.
        flag: The flag that names its values.
        level: What a value changes: ``model``, the network, which is then trained; ``engine``, what
            is built of it; ``loop``, how it is sampled.
    """

    name: str
    flag: str
    level: Level

    @abstractmethod
    def defaults(self, source: Source, recipe: Recipe) -> list[str]:
        """The values where none is named; [] where the search then has no such axis."""

    @abstractmethod
    def parse(self, text: str) -> str:
        """The word for ``text``.

        Raises:
            RequestError: It is no value of this axis.
        """

    @abstractmethod
    def apply(self, recipe: Recipe, word: str) -> Recipe:
        """The recipe with this value."""

    @abstractmethod
    def no_worse(self, one: str, other: str) -> bool:
        """Whether images with ``one`` are expected to be as close to the dense model's as with
        ``other``: an assumption, which spares trials and is named where it did. Both ways for
        equal values; neither way where the axis cannot tell."""

    def level_in(self, recipe: Recipe) -> Level:
        """What a value changes in runs of ``recipe``."""
        return self.level
