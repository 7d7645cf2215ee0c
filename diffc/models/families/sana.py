"""SanaTransformer2DModel: linear self-attention, cross-attention and gated convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import Family
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

_TOKENS = 300  # Gemma's


class Sana(Family):
    """The family of Sana; see ``base.Family``.

    GLUMBConv widths, with their depthwise convolution, and both attentions can be cut.
    """

    class_name = "SanaTransformer2DModel"
    component = "transformer"
    text_places = {"encoder_hidden_states": (0, 2), "encoder_attention_mask": (1, 3)}
    sample_size_is_number = True
    block_returns = ("hidden_states",)

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

    def multiple(self, config: JsonObject) -> int:
        """Return the patch, which is 1 if the config leaves it out."""
        return super().multiple({"patch_size": config.get("patch_size") or 1})


FAMILY = Sana()
"""The one instance; see ``families.family``."""
