"""DiTTransformer2DModel: class-conditional diffusion transformer (Peebles and Xie, 2023)."""

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


class DiT:
    """See ``base.Family``."""

    class_name = "DiTTransformer2DModel"
    component = "transformer"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,  # it has no text
    ) -> list[TensorSpec]:
        """sample (C, H, W) with H = W, timestep (), class_labels ()."""
        config = with_defaults(self.class_name, config)
        height, width = sample_sides(self.class_name, config, resolution)
        return [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("class_labels", (), "int64"),
        ]

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, 2C, H, W): the predicted noise, then the variance, where sigma is learned (the
        published models); else (B, C, H, W)."""
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Feed-forward widths and attention, block by block."""
        groups = block_groups(model, head_dims=head_dims)
        return reached_groups(groups, model, inputs, self.call)


FAMILY = DiT()
"""The one instance; see ``families.family``."""
