"""FluxTransformer2DModel: FLUX.1, double-stream blocks and then single-stream blocks.

The class takes a row of tokens, patches of 2 x 2 of the latent (B, H W / 4, 64), and the place of
each. Here a call takes the latent itself (B, 16, H, W), packs it and numbers the places, so that
one graph serves every height and width. Only whole heads are cut: rotary position embedding and the
normalisation of queries and keys tie a head's dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffc.input_size import Size, as_pair
from diffc.models.families.base import TIMESTEP, Family, PipelineCall, PipelineTexts
from diffc_export.specs import TensorSpec
from diffc_runtime.flow_settings import ENDS_AT_ONE_STEP
from diffc_runtime.json_types import JsonObject
from diffc_runtime.prompt_plan import EncoderUse, GuidanceInput, Piece, PromptPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffc.models.groups import Group

_TOKENS = 512  # T5's
_LATENT = 128  # 1024 pixels
_PATCH = 2  # the pipeline packs by 2, whatever the config says
_TIMESTEPS = 1000  # schedulers count to 1000, this class to 1


class Flux(Family):
    """The family of FLUX.1; see ``base.Family``."""

    class_name = "FluxTransformer2DModel"
    component = "transformer"
    lora_loader = "FluxLoraLoaderMixin"
    is_guided = False
    text_places = {"encoder_hidden_states": (0, None), "pooled_projections": (1, None)}
    pipeline_call = PipelineCall(
        {"sample": "hidden_states"},
        timestep_factor=_TIMESTEPS,
        patch=_PATCH,
        places=("txt_ids", "img_ids"),
    )
    flow_settings = ENDS_AT_ONE_STEP
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

        sample (C, H, W), timestep () in 0..1000, encoder_hidden_states (512, D),
        pooled_projections (P,), and guidance () if guidance is distilled into the model.

        Args:
            config: The content of config.json.
            resolution: The latent's height and width; None: 128.
            tokens: The length of the text condition; None: T5's 512.
        """
        config = self.full_config(config)
        height, width = as_pair(resolution or _LATENT)
        channels = config["in_channels"] // _PATCH**2
        specs = [
            TensorSpec("sample", (channels, height, width), kind="sample"),
            TIMESTEP,
            TensorSpec("encoder_hidden_states", (tokens or _TOKENS, config["joint_attention_dim"])),
            TensorSpec("pooled_projections", (config["pooled_projection_dim"],)),
        ]
        if config["guidance_embeds"]:
            specs.append(TensorSpec("guidance", (), example=3.5))
        return specs

    def call(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted velocity, (B, C, H, W)."""
        rest = {name: value for name, value in inputs.items() if name != "sample"}
        sample, text = inputs["sample"], inputs["encoder_hidden_states"]
        rows, columns = (side // _PATCH for side in sample.shape[-2:])
        axes = len(model.config["axes_dims_rope"])  # type: ignore[index]
        rest["timestep"] = rest["timestep"] / _TIMESTEPS
        rest["img_ids"] = _places(rows, columns, axes).to(text)
        rest["txt_ids"] = text.new_zeros(text.shape[1], axes)
        tokens = _packed(sample, rows, columns)
        output: Tensor = model(tokens, **rest, return_dict=False)[0]
        return _unpacked(output, rows, columns)

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

    def shared_multiple(self, config: JsonObject) -> int | None:
        """Return the pipeline's patch: the graph numbers the places of any height and width."""
        return _PATCH

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


def _packed(latents: Tensor, rows: int, columns: int) -> Tensor:
    """(N, C, 2 rows, 2 columns) -> (N, rows * columns, 4 C), as the pipeline packs."""
    channels = latents.shape[1]
    tiles = latents.reshape(-1, channels, rows, _PATCH, columns, _PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows * columns, channels * _PATCH**2)


def _unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """(N, rows * columns, 4 C) -> (N, C, 2 rows, 2 columns)."""
    channels = tokens.shape[2] // _PATCH**2
    tiles = tokens.reshape(-1, rows, columns, channels, _PATCH, _PATCH)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * _PATCH, columns * _PATCH)


def _places(rows: int, columns: int, axes: int) -> Tensor:
    """Return (rows * columns, axes): zeros, then the row and the column of each token."""
    import torch

    down = torch.arange(rows)[:, None].expand(rows, columns)
    across = torch.arange(columns)[None].expand(rows, columns)
    zeros = [torch.zeros_like(down)] * (axes - 2)
    return torch.stack([*zeros, down, across], -1).reshape(rows * columns, axes)


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
