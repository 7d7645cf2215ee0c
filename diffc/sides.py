"""A side of the denoiser's own input, as people write it: 64, or 64x96 (height x width).

Imports the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

Side: TypeAlias = int | tuple[int, int]
"""The side of a square, or (height, width)."""


def as_pair(side: Side) -> tuple[int, int]:
    """(height, width)."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def as_word(side: Side) -> int | str:
    """A side as recipes and messages have it: 64, or '64x96'."""
    height, width = as_pair(side)
    return height if height == width else f"{height}x{width}"


def read_side(word: int | str | Sequence[int]) -> Side:
    """The side in a recipe or a flag: 64, '64', '64x96' or (64, 96).

    Raises:
        ValueError: ``word`` is something else.
    """
    if isinstance(word, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", word)
        if match is None:
            raise ValueError(f"{word!r} is no side such as 64, and no height x width such as 64x96")
        word = (int(match[1]), int(match[2] or match[1]))
    height, width = (word, word) if isinstance(word, int) else (word[0], word[1])
    return height if height == width else (height, width)
