"""The curve of quality is taken on images: decoded ones of a latent model, or not at all."""

from __future__ import annotations

import pytest
import torch
from support.tiny_text import save_sd

from diffc.data.clean import CleanSet
from diffc.models.source import find_source
from diffc.recipe import DistillSection, resolve
from diffc.stage_inputs import RunShape
from diffc.stages.distill import quality_judge


def judge(source, **flags):
    options = DistillSection(quality_every=1)
    denoiser = RunShape(None, None).open(source)
    specs = denoiser.specs
    text = {spec.name: torch.randn(2, *spec.shape) for spec in specs if spec.kind == "condition"}
    clean = CleanSet(torch.zeros(2, 1), text, "")
    return denoiser.model.eval(), quality_judge(source, options, denoiser, clean)


def test_latents_are_decoded_first(tmp_path, monkeypatch) -> None:
    seen = []

    def ssim(dense, compressed):
        seen.append(tuple(dense.shape))
        return [1.0]

    monkeypatch.setattr("diffc.measure.samples.SSIM.of_pairs", ssim)
    model, (found, notes) = judge(find_source(str(save_sd(tmp_path / "sd"))))
    assert found is not None and not notes
    assert found(model) == 1.0
    assert seen == [(8, 3, 16, 16)]  # the latents are (4, 8, 8)


@pytest.mark.parametrize("part", ["unet", "small"])
def test_what_is_no_image_has_no_curve_and_it_is_said(tmp_path, part) -> None:
    if part == "unet":  # latents, and no VAE to decode them
        folder = save_sd(tmp_path / "sd")
        (folder / "vae" / "config.json").unlink()
    else:
        from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

        folder = tmp_path / "small"
        unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
            block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    _, (found, notes) = judge(find_source(str(folder)))
    assert found is None and "no curve of quality" in notes[0]


def test_the_latent_recipe_of_a_pixel_family_asks_for_none() -> None:
    recipe = resolve(family="UNet2DModel", model="CompVis/ldm-celebahq-256")
    assert recipe.distill.quality_every == 0
