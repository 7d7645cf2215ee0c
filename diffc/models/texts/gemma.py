"""Gemma 2 (arXiv 2408.00118) without its head, as Sana encodes prompts with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffc.models.texts.base import IDS, MASK, TextEncoderKind
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

_WIDTH = 2304


class Gemma(TextEncoderKind):
    """``last``: hidden states (L, D). A token's looks back alone, never at what follows."""

    class_names = ("Gemma2Model",)

    def parts(
        self, class_name: str, config: JsonObject, length: int
    ) -> Mapping[str, tuple[int, ...]]:
        """Return the outputs by name, with their shapes without the batch."""
        return {"last": (length, int(config.get("hidden_size") or _WIDTH))}

    def run(
        self, model: nn.Module, inputs: Mapping[str, Tensor], parts: Sequence[str]
    ) -> Mapping[str, Tensor]:
        """Call ``model``."""
        return {"last": model(inputs[IDS], attention_mask=inputs.get(MASK), use_cache=False)[0]}


KIND = Gemma()
"""The one instance; see ``texts.find_kind``."""
