"""SanaTransformer2DModel: linear self-attention, cross-attention and gated convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc_export.specs import TensorSpec
from torch import Tensor, nn

from diffc.models.families.base import sample_sides, with_defaults
from diffc.models.families.blocks import block_groups
from diffc.models.families.exporting import exportable
from diffc.models.families.reach import reached_groups
from diffc.models.groups import Group
from diffc.models.resolutions import Side

_TOKENS = 300  # Gemma's


class Sana:
    """See ``base.Family``."""

    class_name = "SanaTransformer2DModel"
    component = "transformer"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """sample (C, H, W), timestep (), encoder_hidden_states (300, D), encoder_attention_mask
        (300,), and guidance () where it is distilled into the model (Sprint)."""
        config = with_defaults(self.class_name, config)
        height, width = sample_sides(self.class_name, config, resolution)
        specs = [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("encoder_hidden_states", (tokens or _TOKENS, config["caption_channels"])),
            TensorSpec("encoder_attention_mask", (tokens or _TOKENS,), "int64"),
        ]
        return [*specs, TensorSpec("guidance", ())] if config.get("guidance_embeds") else specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted velocity, (B, C, H, W)."""
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        with exportable():  # linear attention divides by a sum + 1e-15
            output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """GLUMBConv widths (with their depthwise convolution) and both attentions."""
        groups = block_groups(model, head_dims=head_dims)
        return reached_groups(groups, model, inputs, self.call)


FAMILY = Sana()
"""The one instance; see ``families.family``."""
