"""T5's encoder (Raffel et al., arXiv 1910.10683) and UMT5's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffc.models.texts.base import IDS, MASK, TextEncoderKind
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn


class T5(TextEncoderKind):
    """``last``: hidden states (L, D)."""

    class_names = ("T5EncoderModel", "UMT5EncoderModel")

    def parts(
        self, class_name: str, config: JsonObject, length: int
    ) -> Mapping[str, tuple[int, ...]]:
        """Return the outputs by name, with their shapes without the batch."""
        return {"last": (length, int(config.get("d_model") or 512))}

    def run(
        self, model: nn.Module, inputs: Mapping[str, Tensor], parts: Sequence[str]
    ) -> Mapping[str, Tensor]:
        """Call ``model``; without a mask it attends to the padding too."""
        return {"last": model(inputs[IDS], attention_mask=inputs.get(MASK))[0]}


KIND = T5()
"""The one instance; see ``texts.find_kind``."""
