"""A tiny autoencoder of each class that is exported whole, and a pipeline around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderDC,
    AutoencoderTiny,
    DDIMScheduler,
    UNet2DModel,
    VQModel,
)
from torch import nn


def deep_compression(**more: Any) -> AutoencoderDC:
    """Images of 8 times the latent's sides; the two inner levels have linear attention.

    Args:
        more: Other entries of the config.
    """
    blocks, scales = ("ResBlock",) * 2 + ("EfficientViTBlock",) * 2, ((), (), (5,), (5,))
    return AutoencoderDC(
        latent_channels=4, attention_head_dim=4, scaling_factor=0.4,
        encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8, 16, 16), decoder_block_out_channels=(8, 8, 16, 16),
        encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales, **more,
    )  # fmt: skip


def sanas() -> AutoencoderDC:
    """As Sana's is configured."""
    return deep_compression(downsample_block_type="Conv", upsample_block_type="interpolate")


def _tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip


def _vector_quantized() -> VQModel:
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, num_vq_embeddings=16,
    )  # fmt: skip


def _asymmetric() -> AsymmetricAutoencoderKL:
    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        down_block_out_channels=(8, 8), up_block_out_channels=(8, 8), layers_per_down_block=1,
        layers_per_up_block=2, norm_num_groups=4,
    )  # fmt: skip


def inpainting(levels: tuple[int, ...] = (8, 16, 32, 32)) -> AsymmetricAutoencoderKL:
    """As the published ones: image and mask reach every level of the decoder.

    Args:
        levels: Channels of the decoder's levels.
    """
    count = len(levels)
    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count, down_block_out_channels=(8,) * count,
        up_block_out_channels=levels, layers_per_down_block=1, layers_per_up_block=1,
        norm_num_groups=4, scaling_factor=0.5,
    )  # fmt: skip


AUTOENCODERS: Mapping[str, Callable[[], nn.Module]] = {
    "deep-compression": deep_compression,
    "tiny": _tiny,
    "vector-quantized": _vector_quantized,
    "asymmetric": _asymmetric,
}


def save_latent_pipeline(folder: Path, name: str) -> Path:
    """A U-Net without conditions and an autoencoder, as LDMPipeline's folder has them."""
    torch.manual_seed(0)
    parts = {
        "unet": UNet2DModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
            layers_per_block=1, norm_num_groups=4,
        ),
        "vqvae": AUTOENCODERS[name](),
        "scheduler": DDIMScheduler(),
    }  # fmt: skip
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    index = {part: ["diffusers", type(value).__name__] for part, value in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline", **index}))
    return folder
