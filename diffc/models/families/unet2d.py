"""UNet2DModel: the unconditional (or class-conditional) U-Net of DDPM, DDIM, LDM and friends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffc.models.families.attention import attention_groups, inner_projections
from diffc.models.families.base import TensorSpec, with_defaults
from diffc.models.families.graph import traced_groups
from diffc.models.groups import Group


class UNet2D:
    """See ``base.Family``."""

    class_name = "UNet2DModel"
    component = "unet"

    def specs(self, config: Mapping[str, Any], resolution: int | None = None) -> list[TensorSpec]:
        """sample (C, H, W), timestep (), and class_labels () when the model has classes."""
        config = with_defaults(self.class_name, config)
        size = resolution or config.get("sample_size") or 32
        height, width = (size, size) if isinstance(size, int) else size
        specs = [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
        ]
        if config.get("class_embed_type") == "timestep":
            specs.append(TensorSpec("class_labels", ()))
        elif config.get("num_class_embeds"):
            specs.append(TensorSpec("class_labels", (), "int64"))
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted noise (or v, or x_0), (B, C, H, W)."""
        output: Tensor = model(**inputs, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Convolution channels and the time embedding by tracing, attention by hand."""
        fixed = ["conv_out", *inner_projections(model)]
        traced = traced_groups(model, inputs, self.call, fixed=fixed)
        return traced + attention_groups(model, head_dims=head_dims)


FAMILY = UNet2D()
