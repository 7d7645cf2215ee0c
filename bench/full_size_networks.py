"""The networks of ``bench.full_size``, at the size in which they are published or parts of that."""

from __future__ import annotations

from dataclasses import replace

from bench.gpu.networks import NETWORKS as MEASURED
from bench.gpu.networks import Network

# SD 1.5 without its two lower levels
_TWO_LEVELS = Network(
    "UNet2DConditionModel", 111.5,
    {"sample_size": 16, "cross_attention_dim": 768, "block_out_channels": [320, 640],
     "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
     "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
    {"layers_per_block": 1, "block_out_channels": [16, 16], "norm_num_groups": 8,
     "cross_attention_dim": 24, "attention_head_dim": 2},
)  # fmt: skip

NETWORKS = {
    **MEASURED,
    "sd15-run": MEASURED["sd15"],
    # FLUX.1 at an eighth of its depth: 2 of 19 blocks of two streams, 5 of 38 of one
    "flux-eighth": Network(
        "FluxTransformer2DModel", 1500.0,
        {"guidance_embeds": True, "num_layers": 2, "num_single_layers": 5},
        {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 16,
         "axes_dims_rope": [4, 6, 6]},
    ),
    "sd15-two-levels": _TWO_LEVELS,
    "sd15-two-levels-64": replace(
        _TWO_LEVELS, config={**_TWO_LEVELS.config, "sample_size": 64}
    ),
    # of the pipeline that bench/full_size_pipeline.py writes
    "sd15-parts": Network("UNet2DConditionModel", 0.0, {}),
    "sd15-side-8": replace(
        MEASURED["sd15"], config={**MEASURED["sd15"].config, "sample_size": 8}
    ),
    # DiT-XL/2 with 6 of its 28 blocks
    "dit-six-blocks": replace(
        MEASURED["dit-xl-2"], parameters=162.8,
        config={**MEASURED["dit-xl-2"].config, "num_layers": 6, "sample_size": 16},
    ),
}  # fmt: skip
