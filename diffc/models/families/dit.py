"""DiTTransformer2DModel: class-conditional diffusion transformer (Peebles and Xie, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffc.models.families.base import TensorSpec, with_defaults
from diffc.models.families.blocks import block_groups
from diffc.models.groups import Group


class DiT:
    """See ``base.Family``."""

    class_name = "DiTTransformer2DModel"
    component = "transformer"

    def specs(self, config: Mapping[str, Any], resolution: int | None = None) -> list[TensorSpec]:
        """sample (C, H, W) with H = W, timestep (), class_labels ()."""
        config = with_defaults(self.class_name, config)
        size = resolution or config["sample_size"]
        return [
            TensorSpec("sample", (config["in_channels"], size, size), kind="sample"),
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
        return block_groups(model, head_dims=head_dims)


FAMILY = DiT()
"""The one instance; see ``families.family``."""
