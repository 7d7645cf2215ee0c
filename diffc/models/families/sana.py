"""SanaTransformer2DModel: linear self-attention, cross-attention and gated convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import Family, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, GuidanceInput, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

_TOKENS = 300  # Gemma's
_INSTRUCTION = "complex_human_instruction"


class Sana(Family):
    """The family of Sana; see ``base.Family``.

    GLUMBConv widths, with their depthwise convolution, and both attentions can be cut.
    """

    class_name = "SanaTransformer2DModel"
    component = "transformer"
    text_places = {"encoder_hidden_states": (0, 2), "encoder_attention_mask": (1, 3)}
    sample_size_is_number = True
    block_returns = ("hidden_states",)
    block_parts = {
        "attn1": ("hidden_states",),
        "attn2": ("hidden_states",),
        "ff": ("hidden_states",),
    }

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of Sana.

        sample (C, H, W), timestep (), encoder_hidden_states (300, D), encoder_attention_mask
        (300,), and guidance () if guidance is distilled into the model (Sprint).
        """
        config = self.full_config(config)
        length = tokens or _TOKENS
        specs = [
            *self.image_specs(config, resolution),
            TensorSpec("encoder_hidden_states", (length, config["caption_channels"])),
            TensorSpec("encoder_attention_mask", (length,), "int64", example=1),
        ]
        if config.get("guidance_embeds"):
            specs.append(TensorSpec("guidance", (), example=3.5))
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted velocity, (B, C, H, W)."""
        from diffc.models.families.exporting import exporter_workarounds

        with exporter_workarounds():  # linear attention divides by a sum + 1e-15
            return super().call(model, inputs)

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """Gemma after the pipeline's instruction; its first and its last rows are kept."""
        factor = float(texts.config.get("guidance_embeds_scale") or 1.0)
        taken = GuidanceInput("guidance", factor=factor) if "guidance" in texts.takes else None
        masked = EncoderUse(
            "tokenizer", texts.tokens, masked=True, pad_left=False, prefix_argument=_INSTRUCTION
        )
        return texts.masked_plan(masked, taken)

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the patch: positions, where there are any, are computed in the graph."""
        return self.multiple(config)

    def multiple(self, config: JsonObject) -> int:
        """Return the patch, which is 1 if the config leaves it out."""
        return super().multiple({"patch_size": config.get("patch_size") or 1})


FAMILY = Sana()
"""The one instance; see ``families.family``."""
