"""CLIP's text models (Radford et al., arXiv 2103.00020), with and without their projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diffc.models.texts.base import IDS, MASK, TextEncoderKind
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROJECTING = "CLIPTextModelWithProjection"


class Clip(TextEncoderKind):
    """``last``, ``penultimate``: hidden states (L, D); ``pooled``: (D,), or (P,) projected."""

    class_names = ("CLIPTextModel", _PROJECTING)

    def parts(
        self, class_name: str, config: JsonObject, length: int
    ) -> Mapping[str, tuple[int, ...]]:
        """Return the outputs by name, with their shapes without the batch."""
        states = (length, self.width(config))
        pooled = int(config.get("projection_dim") or 512)
        return {
            "last": states,
            "penultimate": states,
            "pooled": (pooled if class_name == _PROJECTING else states[1],),
        }

    def run(
        self, model: nn.Module, inputs: Mapping[str, Tensor], parts: Sequence[str]
    ) -> Mapping[str, Tensor]:
        """Call ``model``; ``last`` is normalised, ``penultimate`` is not."""
        output = model(
            inputs[IDS],
            attention_mask=inputs.get(MASK),
            output_hidden_states="penultimate" in parts,
        )
        projected = getattr(output, "text_embeds", None)
        values = {"last": output.last_hidden_state}
        values["pooled"] = output.pooler_output if projected is None else projected
        if "penultimate" in parts:
            values["penultimate"] = output.hidden_states[-2]
        return {name: values[name] for name in parts}


KIND = Clip()
"""The one instance; see ``texts.find_kind``."""
