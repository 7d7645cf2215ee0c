"""SD3Transformer2DModel: Stable Diffusion 3 and 3.5 (MMDiT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import Family
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import nn

    from diffc.models.branches import Branch

_CLIP_TOKENS = 77
_TOKENS = _CLIP_TOKENS + 256  # CLIP's and T5's, one after the other


class SD3(Family):
    """The family of Stable Diffusion 3; see ``base.Family``.

    Text and image share the heads of each attention.
    """

    class_name = "SD3Transformer2DModel"
    component = "transformer"
    text_places = {"encoder_hidden_states": (0, 1), "pooled_projections": (2, 3)}
    sample_size_is_number = True
    block_returns = ("encoder_hidden_states", "hidden_states")

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of Stable Diffusion 3.

        sample (C, H, W), timestep () in 0..1000, encoder_hidden_states (333, D), pooled_projections
        (P,).
        """
        config = self.full_config(config)
        return [
            *self.image_specs(config, resolution),
            TensorSpec("encoder_hidden_states", (tokens or _TOKENS, config["joint_attention_dim"])),
            TensorSpec("pooled_projections", (config["pooled_projection_dim"],)),
        ]

    def encoded_tokens(self, tokens: int) -> int:
        """Return the length of T5's part: the pipeline puts CLIP's tokens before it."""
        return tokens - _CLIP_TOKENS

    def branches(self, model: nn.Module) -> list[Branch]:
        """All blocks but the last, which gives back no text."""
        blocks = model.get_submodule("transformer_blocks")
        last = f"transformer_blocks.{len(list(blocks.children())) - 1}"
        return [branch for branch in super().branches(model) if branch.name != last]


FAMILY = SD3()
"""The one instance; see ``families.family``."""
