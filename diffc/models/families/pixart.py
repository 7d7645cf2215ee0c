"""PixArtTransformer2DModel: PixArt-alpha and PixArt-Sigma."""

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

_ADDED = ("resolution", "aspect_ratio")


class PixArt:
    """See ``base.Family``."""

    class_name = "PixArtTransformer2DModel"
    component = "transformer"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """sample (C, H, W), timestep (), encoder_hidden_states (L, D), encoder_attention_mask (L,).

        L: T5 tokens, 120 in alpha and 300 in Sigma. alpha at 1024 pixels adds resolution (2,) and
        aspect_ratio (1,).
        """
        config = with_defaults(self.class_name, config)
        height, width = sample_sides(self.class_name, config, resolution)
        # as the published configs tell them apart: Sigma's says false, alpha's says nothing
        length = tokens or (300 if config.get("use_additional_conditions") is False else 120)
        caption = config.get("caption_channels") or config["cross_attention_dim"]
        specs = [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("encoder_hidden_states", (length, caption)),
            TensorSpec("encoder_attention_mask", (length,), "int64"),
        ]
        if _has_sizes(config):
            specs += [TensorSpec("resolution", (2,)), TensorSpec("aspect_ratio", (1,))]
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, 2C, H, W): the predicted noise, then the variance, where sigma is learned (the
        published models); else (B, C, H, W)."""
        aside = ("sample", *_ADDED)
        rest = {name: value for name, value in inputs.items() if name not in aside}
        added = {name: inputs.get(name) for name in _ADDED}
        with exportable():  # its last layer squeezes a dimension that is not 1
            output: Tensor = model(
                inputs["sample"], **rest, added_cond_kwargs=added, return_dict=False
            )[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Feed-forward widths and both attentions, block by block."""
        groups = block_groups(model, head_dims=head_dims)
        return reached_groups(groups, model, inputs, self.call)


def _has_sizes(config: Mapping[str, Any]) -> bool:
    """Whether the image's size is a condition; diffusers decides by sample_size when unset."""
    asked = config.get("use_additional_conditions")
    return bool(config["sample_size"] == 128 if asked is None else asked)


FAMILY = PixArt()
"""The one instance; see ``families.family``."""
