"""AutoencoderKL's decoder: latents to images. The encoder is left whole.

It is not a denoiser: it has no timestep, and its output has another shape than its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size
from diffc.models.families.base import Family, PipelineCall
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.branches import Branch
    from diffc.models.groups import Group


class AutoencoderKLDecoder(Family):
    """The family of the VAE's decoder; see ``base.Family``."""

    class_name = "AutoencoderKL"
    component = "vae"
    is_denoiser = False
    pipeline_call = PipelineCall({"sample": "latent_sample", "out_sample": "sample"})

    def specs(
        self,
        config: JsonObject,
        resolution: Size | None = None,
        tokens: int | None = None,  # it has no text
    ) -> list[TensorSpec]:
        """Return sample, the latent (C, h, w); ``resolution`` is the latent's."""
        config = self.full_config(config)
        height, width = self.sample_size(config, resolution)
        if resolution is None:  # the config's is of the image
            height, width = height // _factor(config), width // _factor(config)
        return [TensorSpec("sample", (config["latent_channels"], height, width), kind="sample")]

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the decoded image, (B, 3, H, W) with H = 8 h for four levels."""
        output: Tensor = model.decode(inputs["sample"], return_dict=False)[0]  # type: ignore[operator]
        return output

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Trace the decoder's convolutions; list its attention directly."""
        from diffc.models.families.attention import attention_groups, inner_projections
        from diffc.models.families.graph import trace_groups

        fixed = ["decoder.conv_out", *inner_projections(model)]
        if getattr(model, "post_quant_conv", None) is not None:
            fixed.append("post_quant_conv")
        attention = [
            group
            for group in attention_groups(model, head_dims=head_dims)
            if group.name.startswith("decoder.")
        ]
        return trace_groups(model, inputs, self.call, fixed=fixed) + attention

    def branches(self, model: nn.Module) -> list[Branch]:
        """The branches of the decoder's residual blocks and attentions."""
        from diffc.models.branches import residual_branches

        return residual_branches(model, "decoder")

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return 1: the decoder only doubles sizes, so it takes any."""
        return 1

    def multiple(self, config: JsonObject) -> int:
        """Return 1: the decoder takes any size."""
        return 1


def _factor(config: JsonObject) -> int:
    """Return the number of image pixels for each latent pixel, along one edge."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


FAMILY = AutoencoderKLDecoder()
"""The one instance; see ``families.family``."""
