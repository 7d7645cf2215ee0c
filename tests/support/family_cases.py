"""Tiny random models of the real configurations: few layers, small widths, the same structure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from diffc.models.cut import skeleton
from diffc.models.families import family
from diffc.models.families.base import Family
from diffc.models.families.examples import example_inputs, meta_inputs
from diffc.models.groups import Group
from diffc_export.specs import Inputs, TensorSpec

_UNET2D = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
_CONDITION = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 24,
}
_DIT = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
}
_PIXART = {
    **_DIT,
    "num_embeds_ada_norm": 1000,
    "cross_attention_dim": 32,
    "caption_channels": 20,
}
_SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 20,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 16,
}
_FLUX = {
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "pooled_projection_dim": 12,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}
_SANA = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 20,
}
_WAN = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 3,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 2,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}

# name -> (class, config, groups' option head_dims)
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "unet2d": ("UNet2DModel", _UNET2D, False),
    "unet2d-heads": ("UNet2DModel", {**_UNET2D, "attention_head_dim": 8}, False),
    "unet2d-head-dims": ("UNet2DModel", {**_UNET2D, "attention_head_dim": 8}, True),
    "unet2d-classes": ("UNet2DModel", {**_UNET2D, "num_class_embeds": 5}, False),
    "unet2d-scale-shift": (
        "UNet2DModel",
        {**_UNET2D, "resnet_time_scale_shift": "scale_shift"},
        False,
    ),
    "unet2d-resnet-sampling": (
        "UNet2DModel",
        {**_UNET2D, "downsample_type": "resnet", "upsample_type": "resnet"},
        False,
    ),
    "unet2d-no-attention": ("UNet2DModel", {**_UNET2D, "add_attention": False}, False),
    "sd15": ("UNet2DConditionModel", _CONDITION, False),
    "sd15-head-dims": ("UNet2DConditionModel", _CONDITION, True),
    "sdxl": (
        "UNet2DConditionModel",
        {
            **_CONDITION,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [2, 4],
            "transformer_layers_per_block": [1, 2],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 34,
        },
        False,
    ),
    "ldm4": (
        "UNet2DConditionModel",
        {**_CONDITION, "attention_head_dim": 1, "in_channels": 3, "out_channels": 3},
        False,
    ),
    "lcm": ("UNet2DConditionModel", {**_CONDITION, "time_cond_proj_dim": 12}, False),
    "audioldm": (
        "UNet2DConditionModel",
        {
            **_CONDITION,
            "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
            "cross_attention_dim": [16, 32],
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 12,
            "class_embeddings_concat": True,
        },
        False,
    ),
    "text-proj-identity": (
        "UNet2DConditionModel",
        {**_CONDITION, "encoder_hid_dim": 20, "class_embed_type": "identity"},
        False,
    ),
    "dit": ("DiTTransformer2DModel", _DIT, False),
    "dit-head-dims": ("DiTTransformer2DModel", _DIT, True),
    "pixart": ("PixArtTransformer2DModel", _PIXART, False),
    "pixart-head-dims": ("PixArtTransformer2DModel", _PIXART, True),
    "pixart-sizes": (
        "PixArtTransformer2DModel",
        {**_PIXART, "num_attention_heads": 6, "cross_attention_dim": 48}
        | {"use_additional_conditions": True},
        False,
    ),
    "sd3": ("SD3Transformer2DModel", _SD3, False),
    "sd3-head-dims": ("SD3Transformer2DModel", _SD3, True),
    "sd35": (
        "SD3Transformer2DModel",
        {**_SD3, "qk_norm": "rms_norm", "dual_attention_layers": [0]},
        False,
    ),
    "flux": ("FluxTransformer2DModel", _FLUX, False),
    "flux-schnell": ("FluxTransformer2DModel", {**_FLUX, "guidance_embeds": False}, False),
    "sana": ("SanaTransformer2DModel", _SANA, False),
    "sana-head-dims": ("SanaTransformer2DModel", _SANA, True),
    "sana15": (
        "SanaTransformer2DModel",
        {**_SANA, "qk_norm": "rms_norm_across_heads", "guidance_embeds": True},
        False,
    ),
    "wan": ("WanTransformer3DModel", _WAN, False),
    "wan-image": (
        "WanTransformer3DModel",
        {**_WAN, "image_dim": 16, "added_kv_proj_dim": 36, "num_layers": 1},
        False,
    ),
    "wan-two-pictures": (
        "WanTransformer3DModel",
        {
            **_WAN,
            "image_dim": 16,
            "added_kv_proj_dim": 36,
            "num_layers": 1,
            "pos_embed_seq_len": 514,
        },
        False,
    ),
    "vae": (
        "AutoencoderKL",
        {
            "sample_size": 16,
            "block_out_channels": [16, 32],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
        },
        False,
    ),
}
_RESOLUTION = {"FluxTransformer2DModel": 8, "WanTransformer3DModel": 4}


@dataclass(frozen=True, repr=False)
class Case:
    """A tiny model, its groups, and inputs of batch 2."""

    name: str
    family: Family
    config: Mapping[str, Any]
    model: nn.Module
    specs: list[TensorSpec]
    inputs: Inputs
    groups: list[Group]
    head_dims: bool


@cache
def case(name: str) -> Case:
    """The case of that name, made once."""
    torch.set_num_threads(1)
    class_name, config, head_dims = CASES[name]
    found = family(class_name)
    model = random_model(class_name, config)
    config = json.loads(json.dumps({**model.config}))
    specs = found.specs(config, _RESOLUTION.get(class_name))
    generator = torch.Generator().manual_seed(1)
    inputs = example_inputs(specs, config, 2, generator)
    groups = found.groups(skeleton(class_name, config), meta_inputs(specs), head_dims=head_dims)
    return Case(name, found, config, model, specs, inputs, groups, head_dims)


def random_model(class_name: str, config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A model whose every parameter is random, norms' scales and all biases among them."""
    import diffusers

    torch.manual_seed(seed)
    model: nn.Module = getattr(diffusers, class_name).from_config(dict(config)).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim < 2:
                value.add_(0.2 * torch.randn_like(value))
    return model
