"""UNet2DModel: the unconditional (or class-conditional) U-Net of DDPM, DDIM and LDM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from diffc.errors import InputError
from diffc.input_size import Size
from diffc.models.families.base import LABELS, Family, halving_multiple
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.branches import Branch
    from diffc.models.groups import Group

_SIZE = 32
"""The height and width if a config has none."""

_REFUSED_TIMES = {
    "learned": "its table takes whole timesteps alone, and diffc's graphs take any",
    "fourier": "it takes the logarithm of noise levels, which is minus infinity at timestep 0",
}


class UNet2D(Family):
    """The family of unconditional and class-conditional U-Nets; see ``base.Family``."""

    class_name = "UNet2DModel"
    component = "unet"

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return sample (C, H, W), timestep (), and class_labels if the model has classes.

        class_labels is (), or (width of the time embedding,) if the model adds the labels to it
        unchanged.
        """
        config = self.full_config(config)
        specs = self.image_specs(config, resolution, _SIZE)
        _check_time_embedding(config)
        return [*specs, *self._class_specs(config)]

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Trace convolution channels and the time embedding; list attention directly."""
        from torch import nn

        from diffc.models.families.attention import attention_groups, inner_projections
        from diffc.models.families.graph import trace_groups

        fixed = ["conv_out", *inner_projections(model)]
        if isinstance(getattr(model, "class_embedding", None), nn.Identity):
            fixed.append("time_embedding.linear_2")  # as wide as the labels that are added to it
        groups = trace_groups(model, inputs, self.call, fixed=fixed)
        return groups + attention_groups(model, head_dims=head_dims)

    def branches(self, model: nn.Module) -> list[Branch]:
        """Return its residual blocks and attentions, each of which can be left out whole."""
        from diffc.models.branches import residual_branches

        return residual_branches(model)

    def middle_block(self, model: nn.Module) -> str:
        """Return the block between the levels down and up."""
        from diffc.models.families.middle import unet_middle

        return unet_middle(model)

    def middle_features(self, output: object) -> Tensor:
        """Return the mean over height and width, (B, C)."""
        from diffc.models.families.middle import places_mean

        return places_mean(output)

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the number whose multiples its levels can halve."""
        return halving_multiple(config)

    def multiple(self, config: JsonObject) -> int:
        """Return the number whose multiples its levels can halve."""
        return halving_multiple(config)

    def _class_specs(self, config: JsonObject) -> list[TensorSpec]:
        kind = config.get("class_embed_type")
        if kind is None:
            classes = self.class_count(config)
            return [replace(LABELS, example=range(classes))] if classes else []
        if kind == "timestep":
            return [TensorSpec(LABELS.name, ())]
        if kind == "identity":
            width = config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
            return [TensorSpec(LABELS.name, (int(width),))]
        raise InputError(
            f"a UNet2DModel with class_embed_type '{kind}' is not supported",
            hint="supported: none (a table of classes), timestep, identity",
        )


def _check_time_embedding(config: JsonObject) -> None:
    kind = config.get("time_embedding_type")
    if kind in _REFUSED_TIMES:
        raise InputError(
            f"a UNet2DModel with time_embedding_type '{kind}' is not supported: "
            f"{_REFUSED_TIMES[kind]}",
            hint="supported: positional",
        )


FAMILY = UNet2D()
