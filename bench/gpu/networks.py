"""The networks that are measured: the published configurations, with random weights.

Latency and memory do not depend on the weights. Only what differs from the diffusers class's own
defaults is written down. ``--small`` takes the same structures at a size that a CPU runs in
milliseconds, to rehearse the whole.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DDPM = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
         "attention_head_dim": None}  # fmt: skip
_CIFAR = {
    **_DDPM,
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
_CROSS = ["CrossAttnDownBlock2D"] * 3
_CROSS_UP = ["CrossAttnUpBlock2D"] * 3


@dataclass(frozen=True)
class Network:
    """One denoiser. config: what differs from the class's defaults. small: what ``--small`` makes
    of it. parameters: millions, as published, for a check against a slip of the pen."""

    class_name: str
    parameters: float
    config: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict)


# widths of 16 alone: the fewer widths there are, the fewer points a cost table has. 2x2 pixels at
# the lowest level: TensorRT-RTX builds no normalisation of one element, which no real network has
_SMALL = {"sample_size": 16, "layers_per_block": 1, "block_out_channels": [16, 16, 16, 16]}
_SMALL_UNET = {**_SMALL, "norm_num_groups": 8}

NETWORKS = {
    "cifar": Network(
        "UNet2DModel", 35.7, _CIFAR, _SMALL_UNET
    ),
    # 32 normalisation groups make every width a multiple of 32; here unaligned ones can be cut
    "cifar-one-group": Network(
        "UNet2DModel", 35.7, {**_CIFAR, "norm_num_groups": 1}, _SMALL
    ),
    "lsun-256": Network(
        "UNet2DModel", 113.7,
        {
            **_DDPM,
            "sample_size": 256,
            "block_out_channels": [128, 128, 256, 256, 512, 512],
            "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        },
        {**_SMALL_UNET, "sample_size": 64, "block_out_channels": [16] * 6},
    ),
    "sd15": Network(
        "UNet2DConditionModel", 859.5,
        {
            "sample_size": 64,
            "cross_attention_dim": 768,
            "down_block_types": [*_CROSS, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *_CROSS_UP],
        },
        {**_SMALL_UNET, "cross_attention_dim": 24, "attention_head_dim": 2},
    ),
    "sdxl": Network(
        "UNet2DConditionModel", 2567.5,
        {
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "down_block_types": ["DownBlock2D", *_CROSS[:2]],
            "up_block_types": [*_CROSS_UP[:2], "UpBlock2D"],
        },
        {**_SMALL_UNET, "cross_attention_dim": 24, "attention_head_dim": [2, 2, 2],
         "block_out_channels": [16, 16, 16], "transformer_layers_per_block": [1, 1, 2],
         "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34},
    ),
    "dit-xl-2": Network(
        # 675 in the paper; diffusers keeps an embedder of the timestep and class in every block
        "DiTTransformer2DModel", 749.8,
        {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8,
         "num_layers": 28, "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000},
        {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8,
         "num_embeds_ada_norm": 10},
    ),
}  # fmt: skip


def network_folder(name: str, work: Path, *, small: bool) -> Path:
    """The folder of a network with random weights (fp16), made once."""
    network = NETWORKS[name]
    config = {**network.config, **(network.small if small else {})}
    return _made(work / name / "dense", network.class_name, config)


def small_study_folder(work: Path) -> Path:
    """What a rehearsal of the study takes for CIFAR's trained network: two blocks, random weights.

    Its widths are as large as the recipe's alignment wants them. Of timesteps it has few, since the
    published pruning makes a pass at every one.
    """
    config = {**_CIFAR, "block_out_channels": [32, 64], "layers_per_block": 1}
    for way in ("down", "up"):
        config[f"{way}_block_types"] = _CIFAR[f"{way}_block_types"][-2:]
    return _made(work / "small-study", "UNet2DModel", config, timesteps=10)


def _made(folder: Path, class_name: str, config: dict[str, Any], timesteps: int = 1000) -> Path:
    """``folder`` with a network in it; it appears whole, since SDXL's takes a while to write."""
    if not (folder / "diffusion_pytorch_model.safetensors").exists():
        import diffusers
        import torch

        torch.manual_seed(0)
        model = getattr(diffusers, class_name).from_config(config)
        aside = folder.with_name(f"{folder.name}.part")
        for left in (aside, folder):
            shutil.rmtree(left, ignore_errors=True)
        diffusers.DDPMScheduler(timesteps).save_pretrained(aside / "scheduler")
        model.half().save_pretrained(aside, max_shard_size="100GB")
        aside.rename(folder)
    return folder
