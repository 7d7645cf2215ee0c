"""A tiny random model, and options that take it through the whole chain in seconds."""

from __future__ import annotations

from pathlib import Path

QUICK = {
    "prune": {
        "align": 4,
        # branches take longer to score than such a model to cut; tests of depth say so
        "cut": "width",
        # a plan by an engine's times is another one each time
        "allocate": "global",
        "importance": {"passes": 4, "batch": 2, "grid": 4, "curve_images": 2},
    },
    "data": {"images": 8, "steps": 2, "batch": 4},
    "distill": {"steps": 4, "batch": 4, "warmup": 1, "checkpoint_every": 2},
    "measure": {"runs": 10, "seconds": 0.0, "loop_runs": 3},
    "quality": {"images": 4},
    "reference_loop": "deterministic:2",
}
"""Options that take a tiny model through the whole chain in seconds."""

QUICK_IMPORTANCE = {"passes": 6, "batch": 2, "grid": 5, "curve_images": 2}
"""Options of importance alone: a few passes over few timesteps."""


def save_tiny_model(folder: Path, seed: int) -> Path:
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(16, 32), attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder
