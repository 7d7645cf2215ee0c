"""Prompts to tokens, by the package ``tokenizers`` and the file that diffc exported.

Truncation and padding are those of diffusers' pipelines: to a fixed length, special tokens counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadRequest, UnfitEngine, in_short
from .prompt_plan import TokenizerFacts
from .values import Array

if TYPE_CHECKING:
    import tokenizers

_SHOWN = 60


@dataclass(frozen=True)
class Tokens:
    """The tokens of N texts.

    Attributes:
        ids: (N, L) int64.
        mask: (N, L) int64, 1 for a token and 0 for padding.
        notes: A sentence for each text that was cut.
    """

    ids: Array
    mask: Array
    notes: tuple[str, ...] = ()


class Tokenizer:
    """One tokenizer of a pipeline.

    Args:
        folder: Where its file lies.
        facts: The file's name, and how texts are padded and cut.

    Raises:
        UnfitEngine: The package ``tokenizers`` or the file is missing, or the file is damaged.
    """

    def __init__(self, folder: Path, facts: TokenizerFacts) -> None:
        self.facts, path = facts, folder / facts.file
        if not path.is_file():
            raise UnfitEngine(f"the tokenizer {path} is missing: diffc export OUT writes it again")
        self._tokenizer = _read(path)

    def __call__(self, texts: Sequence[str], most: int, length: int) -> Tokens:
        """Return the tokens of texts, each cut to ``most`` and padded to ``length``.

        Raises:
            BadRequest: A text is no Unicode, such as half of a surrogate pair.
        """
        side = "left" if self.facts.cut_left else "right"
        self._tokenizer.enable_truncation(max_length=most, direction=side)
        try:
            rows = self._tokenizer.encode_batch(list(texts))
        except (UnicodeError, TypeError) as error:
            raise BadRequest(f"a prompt is no text in Unicode: {error}") from None
        ids = np.full((len(rows), length), self.facts.pad_id, np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        notes = []
        for i, row in enumerate(rows):
            count = len(row.ids)
            place = slice(length - count, length) if self.facts.pad_left else slice(0, count)
            ids[i, place], mask[i, place] = row.ids, 1
            if row.overflowing:
                notes.append(_cut_note(texts[i], row, most, self.facts.cut_left))
        return Tokens(ids, mask, tuple(notes))


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        from tokenizers import Tokenizer as Backend
    except ImportError:
        raise UnfitEngine("prompts need the package tokenizers: pip install tokenizers") from None
    try:
        tokenizer = Backend.from_buffer(path.read_bytes())  # by its name, it takes UTF-8 alone
    except Exception as error:  # the package raises nothing narrower
        raise UnfitEngine(f"{path} is damaged: {in_short(error)}") from None
    tokenizer.no_padding()
    return tokenizer


def _cut_note(text: str, row: tokenizers.Encoding, most: int, left: bool) -> str:
    """Return the sentence for a text that was cut, with the part that is left out."""
    spans = [end for _, end in row.offsets if end] if not left else []
    rest = text[max(spans, default=0) :].strip()
    shown = f": '{rest[:_SHOWN]}{'...' if len(rest) > _SHOWN else ''}' is left out" if rest else ""
    return f"a prompt is longer than the {most} tokens that the model takes{shown}"
