"""Tiny random text-to-image pipelines, with a tokenizer made here: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WIDTH = 24
WORDS = ("a", "red", "blue", "cat", "dog", "house")


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Of single letters: every word is spelled."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def text_config(projection: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=projection, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, scaling_factor=0.5,
    )  # fmt: skip


def unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=4, **more,
    )  # fmt: skip


def save_sd(folder: Path, own_vae: Callable[[], nn.Module] = vae) -> Path:
    """Stable Diffusion's structure: 8x8 latents, of 16x16 images where the VAE is the usual one."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=own_vae(), text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(folder.with_name("words")), unet=unet(cross_attention_dim=WIDTH),
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def save_inpainting(folder: Path) -> Path:
    """The same with a U-Net that takes mask and masked image as five further channels."""
    torch.manual_seed(0)
    config = {**unet(cross_attention_dim=WIDTH).config, "in_channels": 9}
    nine = UNet2DConditionModel.from_config(config)
    pipeline = StableDiffusionInpaintPipeline(
        vae=vae(), text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(folder.with_name("words")), unet=nine,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def save_sdxl(folder: Path) -> Path:
    """Two text encoders, pooled embeddings, and the sizes."""
    torch.manual_seed(0)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    words = tokenizer(folder.with_name("words"))
    pipeline = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()), tokenizer=words,
        tokenizer_2=words, unet=unet(cross_attention_dim=2 * WIDTH, **added),
        scheduler=DDIMScheduler(clip_sample=False), force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder
