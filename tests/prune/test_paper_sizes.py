"""The published sizes of Diff-Pruning's models, planned on the meta device."""

from __future__ import annotations

import pytest

from diffc.models.source import Source
from diffc.prune.planning import make_plan
from diffc.recipe import resolve

# The denoisers' configurations, from the published models' config.json
DDPM = dict(
    in_channels=3, out_channels=3, layers_per_block=2, center_input_sample=False,
    flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_num_groups=32,
    act_fn="silu", attention_head_dim=None, norm_eps=1e-6, add_attention=True,
)  # fmt: skip
CIFAR = DDPM | dict(
    sample_size=32, block_out_channels=[128, 256, 256, 256],
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
)  # fmt: skip
CELEBA = DDPM | dict(
    sample_size=64, block_out_channels=[128, 256, 256, 256, 512],
    down_block_types=["DownBlock2D"] * 2 + ["AttnDownBlock2D"] + ["DownBlock2D"] * 2,
    up_block_types=["UpBlock2D"] * 2 + ["AttnUpBlock2D"] + ["UpBlock2D"] * 2,
)  # fmt: skip
LSUN = DDPM | dict(
    sample_size=256, block_out_channels=[128, 128, 256, 256, 512, 512],
    down_block_types=["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
)  # fmt: skip
LDM4 = dict(
    sample_size=64, in_channels=3, out_channels=3, block_out_channels=[192, 384, 576, 960],
    attention_head_dim=1, cross_attention_dim=512, norm_num_groups=32,
    down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    up_block_types=["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "dense", "published"),
    [
        (CIFAR, (35.7e6, 6.1e9), (19.8e6, 3.4e9)),
        (CELEBA, (78.7e6, 23.9e9), (43.7e6, 13.3e9)),
        (LSUN, (113.7e6, 248.7e9), (63.2e6, 138.8e9)),
        (LDM4, (400.92e6, 99.80e9), (189.43e6, 52.71e9)),
    ],
    ids=["cifar10", "celeba", "lsun", "ldm4"],
)
def test_published_sizes(config, dense, published, tmp_path):
    plan = planned(config, tmp_path)
    # dense figures are printed to one decimal (6.1 G is 6.06): hence their looser bound
    assert plan.dense.params == pytest.approx(dense[0], rel=0.005)
    assert plan.dense.macs_paper == pytest.approx(dense[1], rel=0.01)
    assert plan.compressed.params == pytest.approx(published[0], rel=0.005)
    assert plan.compressed.macs_paper == pytest.approx(published[1], rel=0.005)


def planned(config, folder):
    flags = {"prune": {"ratio": 0.3, "ratio_of": "channels", "rounding": "paper"}}
    recipe = resolve(family="UNet2DModel", flags=flags)
    name = "UNet2DConditionModel" if config is LDM4 else "UNet2DModel"
    if config is LDM4:  # a pipeline without a tokenizer: one class embedding in a text's place
        (folder / "model_index.json").write_text('{"_class_name": "LDMPipeline"}')
    source = Source("paper", folder, "", name, config, {}, ())
    return make_plan(source, recipe, None, {}, align=1)
