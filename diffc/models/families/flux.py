"""FluxTransformer2DModel: FLUX.1, double-stream blocks and then single-stream blocks.

Its input is a sequence: the latent in patches of 2 x 2, (B, H W / 4, 64). Whole heads only are cut:
rotary position embedding and the normalisation of queries and keys tie a head's dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc_export.specs import TensorSpec
from torch import Tensor, nn

from diffc.models.families.attention import head_group
from diffc.models.families.base import with_defaults
from diffc.models.families.blocks import block_groups, in_order
from diffc.models.families.feed_forward import width_group
from diffc.models.families.reach import reached_groups
from diffc.models.groups import Group
from diffc.models.resolutions import Side, as_pair

_TOKENS = 512  # T5's
_LATENT = 128  # 1024 pixels
_UNBATCHED = ("img_ids", "txt_ids")


class Flux:
    """See ``base.Family``."""

    class_name = "FluxTransformer2DModel"
    component = "transformer"

    def specs(
        self,
        config: Mapping[str, Any],
        resolution: Side | None = None,
        tokens: int | None = None,
    ) -> list[TensorSpec]:
        """sample (S, C), timestep () in 0..1000, encoder_hidden_states (512, D), pooled_projections
        (P,), img_ids (S, 3), txt_ids (512, 3), guidance () where it is distilled into the model.

        resolution: the side of the latent, 128 when not given; S = (resolution / 2)^2.
        """
        config = with_defaults(self.class_name, config)
        height, width = as_pair(resolution or _LATENT)
        places, length = (height // 2) * (width // 2), tokens or _TOKENS
        axes = len(config["axes_dims_rope"])
        specs = [
            TensorSpec("sample", (places, config["in_channels"]), kind="sample"),
            TensorSpec("timestep", (), kind="timestep"),
            TensorSpec("encoder_hidden_states", (length, config["joint_attention_dim"])),
            TensorSpec("pooled_projections", (config["pooled_projection_dim"],)),
            TensorSpec("img_ids", (places, axes)),
            TensorSpec("txt_ids", (length, axes)),
        ]
        return [*specs, TensorSpec("guidance", ())] if config["guidance_embeds"] else specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The predicted velocity, (B, S, C). Position ids are those of the batch's first row."""
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        rest |= {name: inputs[name][0] for name in _UNBATCHED}
        rest["timestep"] = rest["timestep"] / 1000  # schedulers count to 1000, this class to 1
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *, head_dims: bool = False
    ) -> list[Group]:
        """Feed-forward widths and whole heads, whatever ``head_dims``."""
        blocks = model.get_submodule("single_transformer_blocks")
        single = [
            group
            for name, _ in blocks.named_children()
            for group in _single_groups(model, f"single_transformer_blocks.{name}")
        ]
        groups = in_order(model, [*block_groups(model), *single])
        return reached_groups(groups, model, inputs, self.call)


def _single_groups(model: nn.Module, block: str) -> list[Group]:
    """The heads and the MLP of a single-stream block; its proj_out reads heads, then the MLP."""
    attention = model.get_submodule(f"{block}.attn")
    inner = attention.get_parameter("to_q.weight").shape[0]
    return [
        head_group(f"{block}.attn", attention, readers=[f"{block}.proj_out.weight"]),
        width_group(model, f"{block}.proj_mlp", f"{block}.proj_out", offset=inner),
    ]


FAMILY = Flux()
"""The one instance; see ``families.family``."""
