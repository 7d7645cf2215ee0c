"""SD3Transformer2DModel: Stable Diffusion 3 and 3.5 (MMDiT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import CLIP_TOKENS, Family, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import nn

    from diffc.models.branches import Branch

_CLIPS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_POSITIONS = 96  # diffusers' own number, where the config leaves the table's size out
_TOKENS = CLIP_TOKENS + 256  # CLIP's and T5's, one after the other


class SD3(Family):
    """The family of Stable Diffusion 3; see ``base.Family``.

    Text and image share the heads of each attention.
    """

    class_name = "SD3Transformer2DModel"
    component = "transformer"
    text_places = {"encoder_hidden_states": (0, 1), "pooled_projections": (2, 3)}
    sample_size_is_number = True
    block_returns = ("encoder_hidden_states", "hidden_states")
    block_parts = {
        "attn": ("hidden_states", "encoder_hidden_states"),
        "attn2": ("hidden_states",),
        "ff": ("hidden_states",),
        "ff_context": ("hidden_states",),
    }

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

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the patch: the graph cuts its positions out of the middle of the model's table."""
        return self.multiple(config)

    def largest_side(self, config: JsonObject) -> int | None:
        """Return the height and width of the table of positions, in places of the latent."""
        return int(config.get("pos_embed_max_size") or _POSITIONS) * self.multiple(config)

    def encoded_tokens(self, tokens: int) -> int:
        """Return the length of T5's part: the pipeline puts CLIP's tokens before it."""
        return tokens - CLIP_TOKENS

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """Two CLIPs side by side, then T5; zeros in the place of T5 where the pipeline has none."""
        clips = {name: texts.clip(name, tokenizer) for name, tokenizer in _CLIPS.items()}
        if not set(clips) <= set(texts.encoders):
            return None
        length, uses = self.encoded_tokens(texts.tokens), dict(clips)
        last = Piece(
            "", "zeros", (length, int(self.full_config(texts.config)["joint_attention_dim"]))
        )
        if "text_encoder_3" in texts.encoders:
            uses["text_encoder_3"] = EncoderUse("tokenizer_3", length)
            last = Piece("text_encoder_3", "last")
        return PromptPlan(
            uses,
            {
                "encoder_hidden_states": [[Piece(name, "penultimate") for name in clips], [last]],
                "pooled_projections": [[Piece(name, "pooled") for name in clips]],
            },
        )

    def branches(self, model: nn.Module) -> list[Branch]:
        """All blocks but the last, which gives back no text."""
        blocks = model.get_submodule("transformer_blocks")
        last = f"transformer_blocks.{len(list(blocks.children())) - 1}"
        return [branch for branch in super().branches(model) if branch.name != last]


FAMILY = SD3()
"""The one instance; see ``families.family``."""
