"""FluxTransformer2DModel: FLUX.1, double-stream blocks and then single-stream blocks.

Its input is a sequence: the latent in patches of 2 x 2, (B, H W / 4, 64). Only whole heads are cut:
rotary position embedding and the normalisation of queries and keys tie a head's dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size, as_pair
from diffc.models.families.base import TIMESTEP, Family, PipelineCall, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, GuidanceInput, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.groups import Group

_TOKENS = 512  # T5's
_LATENT = 128  # 1024 pixels
_PATCH = 2  # the pipeline packs by 2, whatever the config says
_UNBATCHED = ("img_ids", "txt_ids")
_TIMESTEPS = 1000  # schedulers count to 1000, this class to 1


class Flux(Family):
    """The family of FLUX.1; see ``base.Family``.

    It takes squares only: a row of tokens does not tell its height and width.
    """

    class_name = "FluxTransformer2DModel"
    component = "transformer"
    lora_loader = "FluxLoraLoaderMixin"
    is_guided = False
    text_places = {"encoder_hidden_states": (0, None), "pooled_projections": (1, None)}
    pipeline_call = PipelineCall(
        {"sample": "hidden_states"}, timestep_factor=_TIMESTEPS, unbatched=_UNBATCHED
    )
    squares_only = True
    channel_axis = -1
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    depth_entries = {
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
    }
    block_returns = ("encoder_hidden_states", "hidden_states")
    block_parts = {
        "attn": ("hidden_states", "encoder_hidden_states"),
        "ff": ("hidden_states",),
        "ff_context": ("hidden_states",),
    }

    def specs(
        self, config: JsonObject, resolution: Size | None = None, tokens: int | None = None
    ) -> list[TensorSpec]:
        """Return the inputs of FLUX.1.

        sample (S, C), timestep () in 0..1000, encoder_hidden_states (512, D), pooled_projections
        (P,), img_ids (S, 3), txt_ids (512, 3), and guidance () if guidance is distilled into the
        model.

        Args:
            config: The content of config.json.
            resolution: The latent's height and width; None: 128. S = (resolution / 2)^2.
            tokens: The length of the text condition; None: T5's 512.
        """
        config = self.full_config(config)
        height, width = as_pair(resolution or _LATENT)
        places, length = (height // _PATCH) * (width // _PATCH), tokens or _TOKENS
        axes = len(config["axes_dims_rope"])
        specs = [
            TensorSpec("sample", (places, config["in_channels"]), kind="sample"),
            TIMESTEP,
            TensorSpec("encoder_hidden_states", (length, config["joint_attention_dim"])),
            TensorSpec("pooled_projections", (config["pooled_projection_dim"],)),
            TensorSpec("img_ids", (places, axes), example=_grid(places, axes)),
            TensorSpec("txt_ids", (length, axes), example=0),
        ]
        if config["guidance_embeds"]:
            specs.append(TensorSpec("guidance", (), example=3.5))
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted velocity, (B, S, C). The batch's first row gives the position
        ids.
        """
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        rest |= {name: inputs[name][0] for name in _UNBATCHED}
        rest["timestep"] = rest["timestep"] / _TIMESTEPS
        output: Tensor = model(inputs["sample"], **rest, return_dict=False)[0]
        return output

    def candidate_groups(
        self, model: nn.Module, inputs: Mapping[str, Tensor], head_dims: bool
    ) -> list[Group]:
        """Return feed-forward widths and whole heads, whatever ``head_dims``."""
        from diffc.models.families.blocks import block_groups, in_order

        blocks = model.get_submodule("single_transformer_blocks")
        single = [
            group
            for name, _ in blocks.named_children()
            for group in _single_groups(model, f"single_transformer_blocks.{name}")
        ]
        return in_order(model, [*block_groups(model), *single])

    def multiple(self, config: JsonObject) -> int:
        """Return the pipeline's patch."""
        return _PATCH

    def prompt_plan(self, texts: PipelineTexts) -> PromptPlan | None:
        """T5's hidden states, and CLIP's pooled one."""
        if not {"text_encoder", "text_encoder_2"} <= set(texts.encoders):
            return None
        return PromptPlan(
            {
                "text_encoder": texts.clip("text_encoder", "tokenizer"),
                "text_encoder_2": EncoderUse("tokenizer_2", texts.tokens),
            },
            {
                "encoder_hidden_states": [[Piece("text_encoder_2", "last")]],
                "pooled_projections": [[Piece("text_encoder", "pooled")]],
            },
            guidance=GuidanceInput("guidance") if "guidance" in texts.takes else None,
        )

    def latent_shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """(S, C) -> (C / 4, H, W), of a square."""
        side = _PATCH * math.isqrt(sample[0])
        return sample[1] // _PATCH**2, side, side

    def pack(self, latents: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H/2 W/2, 4 C), as the pipeline packs."""
        n, c, h, w = latents.shape
        tiles = latents.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return tiles.reshape(n, h // 2 * (w // 2), 4 * c)

    def unpack(self, samples: Tensor) -> Tensor:
        """(N, H/2 W/2, 4 C) -> (N, C, H, W), of a square."""
        n, count, c = samples.shape
        side = round(count**0.5)
        tiles = samples.reshape(n, side, side, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tiles.reshape(n, c // 4, 2 * side, 2 * side)


def _grid(tokens: int, axes: int) -> list[list[int]]:
    """Return (0, row, column) of each token, on the squarest grid of ``tokens``."""
    height = next(h for h in range(math.isqrt(tokens), 0, -1) if tokens % h == 0)
    zeros = [0] * (axes - 2)
    return [[*zeros, *divmod(place, tokens // height)] for place in range(tokens)]


def _single_groups(model: nn.Module, block: str) -> list[Group]:
    """Return the heads and the MLP of a single-stream block.

    Its proj_out reads heads first, then the MLP.
    """
    from diffc.models.families.attention import head_group
    from diffc.models.families.feed_forward import width_group

    attention = model.get_submodule(f"{block}.attn")
    inner = attention.get_parameter("to_q.weight").shape[0]
    return [
        head_group(f"{block}.attn", attention, readers=[f"{block}.proj_out.weight"]),
        width_group(model, f"{block}.proj_mlp", f"{block}.proj_out", offset=inner),
    ]


FAMILY = Flux()
"""The one instance; see ``families.family``."""
