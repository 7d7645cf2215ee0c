"""UNet2DModel: the unconditional (or class-conditional) U-Net of DDPM, DDIM, LDM and friends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc_export.specs import TensorSpec
from torch import Tensor, nn

from diffc.errors import InputError
from diffc.models.families.attention import attention_groups, inner_projections
from diffc.models.families.base import sample_sides, with_defaults
from diffc.models.families.graph import traced_groups
from diffc.models.families.reach import reached_groups
from diffc.models.groups import Group
from diffc.models.resolutions import Side

_SIZE = 32
"""The side where a config has none."""

_REFUSED_TIMES = {
    "learned": "its table takes whole timesteps alone, and diffc's graphs take any",
    "fourier": "it takes the logarithm of noise levels, which is minus infinity at timestep 0",
}


class UNet2D:
    """See ``base.Family``."""

    class_name = "UNet2DModel"
    component = "unet"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """sample (C, H, W), timestep (), and class_labels where the model has classes: () or, where
        it adds them to the time embedding as they are, (its width,)."""
        config = with_defaults(self.class_name, config)
        height, width = sample_sides(self.class_name, config, resolution, _SIZE)
        specs = [
            TensorSpec("sample", (config["in_channels"], height, width), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
        ]
        _check_time_embedding(config)
        return [*specs, *_class_specs(config)]

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted noise (or v, or x_0), (B, C, H, W)."""
        output: Tensor = model(**inputs, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Convolution channels and the time embedding by tracing, attention by hand."""
        fixed = ["conv_out", *inner_projections(model)]
        if isinstance(getattr(model, "class_embedding", None), nn.Identity):
            fixed.append("time_embedding.linear_2")  # as wide as the labels that are added to it
        traced = traced_groups(model, inputs, self.call, fixed=fixed)
        groups = traced + attention_groups(model, head_dims=head_dims)
        return reached_groups(groups, model, inputs, self.call)


def _check_time_embedding(config: Mapping[str, Any]) -> None:
    kind = config.get("time_embedding_type")
    if kind in _REFUSED_TIMES:
        raise InputError(
            f"a UNet2DModel with time_embedding_type '{kind}' is not supported: "
            f"{_REFUSED_TIMES[kind]}",
            hint="supported: positional",
        )


def _class_specs(config: Mapping[str, Any]) -> list[TensorSpec]:
    kind = config.get("class_embed_type")
    if kind is None:
        return [TensorSpec("class_labels", (), "int64")] if config.get("num_class_embeds") else []
    if kind == "timestep":
        return [TensorSpec("class_labels", ())]
    if kind == "identity":
        width = config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
        return [TensorSpec("class_labels", (int(width),))]
    raise InputError(
        f"a UNet2DModel with class_embed_type '{kind}' is not supported",
        hint="supported: none (a table of classes), timestep, identity",
    )


FAMILY = UNet2D()
