"""SD3Transformer2DModel: Stable Diffusion 3 and 3.5 (MMDiT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc_export.specs import TensorSpec
from torch import Tensor, nn

from diffc.models.families.base import sample_sides, with_defaults
from diffc.models.families.blocks import block_groups
from diffc.models.families.reach import reached_groups
from diffc.models.groups import Group
from diffc.models.resolutions import Side

_TOKENS = 333  # CLIP's 77 and T5's 256, one after the other


class SD3:
    """See ``base.Family``."""

    class_name = "SD3Transformer2DModel"
    component = "transformer"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """sample (C, H, W), timestep () in 0..1000, encoder_hidden_states (333, D),
        pooled_projections (P,)."""
        config = with_defaults(self.class_name, config)
        height, width = sample_sides(self.class_name, config, resolution)
        return [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("encoder_hidden_states", (tokens or _TOKENS, config["joint_attention_dim"])),
            TensorSpec("pooled_projections", (config["pooled_projection_dim"],)),
        ]

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted velocity, (B, C, H, W)."""
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Feed-forward widths of both streams, and the heads that text and image share."""
        groups = block_groups(model, head_dims=head_dims)
        return reached_groups(groups, model, inputs, self.call)


FAMILY = SD3()
"""The one instance; see ``families.family``."""
