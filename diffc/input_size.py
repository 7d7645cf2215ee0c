"""The size of the denoiser's own input, as people write it: 64, or 64x96 (height x width).

Imports the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

Size: TypeAlias = int | tuple[int, int]
"""The height and width of a square as one number, or (height, width)."""


def as_pair(size: Size) -> tuple[int, int]:
    """Return (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_word(size: Size) -> int | str:
    """Return a size as recipes and messages write it: 64, or '64x96'."""
    height, width = as_pair(size)
    return height if height == width else f"{height}x{width}"


def read_size(word: int | str | Sequence[int]) -> Size:
    """Return the size in a recipe or a flag: 64, '64', '64x96' or (64, 96).

    Raises:
        ValueError: ``word`` is something else.
    """
    if isinstance(word, str):
        match = re.fullmatch(r"\s*(\d+)\s*(?:[xX]\s*(\d+)\s*)?", word)
        if match is None:
            raise ValueError(f"{word!r} is neither a side (64) nor a height x width (64x96)")
        word = (int(match[1]), int(match[2] or match[1]))
    height, width = (word, word) if isinstance(word, int) else (word[0], word[1])
    return height if height == width else (height, width)
