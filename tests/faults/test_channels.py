"""Models that take more channels than they predict are refused in one line before any work."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from support import tiny_text
from support.pipelines import edit_json, other_parts, save_ddpm
from support.runs import compile_quickly, refusal

from diffc.errors import InputError
from diffc.models.channels import check_channels
from diffc.models.source import Source, find_source
from diffc.recipe import resolve
from diffc.stages.preflight import preflight


def save_wide(folder, channels: int, kind=StableDiffusionPipeline):
    """Stable Diffusion's structure with a U-Net of ``channels`` inputs and 4 outputs."""
    torch.manual_seed(0)
    config = {**tiny_text.unet(cross_attention_dim=24).config, "in_channels": channels}
    unet = UNet2DConditionModel.from_config(config)
    scheduler = DDIMScheduler(clip_sample=False)
    kind(unet=unet, scheduler=scheduler, **other_parts(folder)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("channels", "kind", "what"),
    [
        (7, StableDiffusionPipeline, "such as a mask or an image"),
        (5, StableDiffusionPipeline, "the other 1 is a condition"),
    ],
)
def test_further_channels_of_which_nothing_is_known(tmp_path, channels, kind, what) -> None:
    error = refusal(save_wide(tmp_path / "m", channels, kind), tmp_path / "out")
    assert what in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "kind", "names"),
    [
        (9, StableDiffusionInpaintPipeline, {"mask", "masked_image_latents"}),
        (8, StableDiffusionPipeline, {"image_latents"}),
    ],
)
def test_an_image_beside_the_sample_is_a_condition(tmp_path, channels, kind, names) -> None:
    """Masks of the calibration images, not zeros; samples of another shape stay refused."""
    model = save_wide(tmp_path / "m", channels, kind)
    (tmp_path / "prompts.txt").write_text("a red cat\n", "utf-8")
    data = {"prompts": str(tmp_path / "prompts.txt"), "images": 12, "steps": 2}
    assert compile_quickly(model, tmp_path / "out", "plan", data=data) is not None
    rows = load_file(tmp_path / "out" / ".diffc" / "clean.safetensors")
    assert rows["sample"].shape == (12, 4, 8, 8) and names < set(rows)
    if "mask" in names:
        mask = rows["mask"]
        assert mask.shape == (12, 1, 8, 8) and set(mask.unique().tolist()) == {0.0, 1.0}
        shares = mask.mean((1, 2, 3))
        assert (shares == 1).any() and (shares < 1).any() and len(shares.unique()) > 3
    for name in names - {"mask"}:
        assert rows[name].shape == (12, 4, 8, 8) and rows[name].std(0).mean() > 1e-3
    save_file({"sample": torch.randn(8, channels, 8, 8)}, tmp_path / "samples.safetensors")
    with pytest.raises(InputError, match=f"'{min(names)}' is missing"):
        source = str(tmp_path / "samples.safetensors")
        compile_quickly(model, tmp_path / "no", "plan", data={"source": source})


@pytest.mark.parametrize(("taken", "predicted"), [(2, 1), (6, 3), (1, 3), (3, 4)])
def test_no_number_is_broadcast_or_cut_in_silence(tmp_path, taken, predicted) -> None:
    model = save_ddpm(tmp_path / "m", in_channels=taken, out_channels=predicted)
    error = refusal(model, tmp_path / "out")
    assert f"takes {taken} channels and predicts {predicted}" in str(error)


@pytest.mark.parametrize(
    ("class_name", "config", "pipeline", "words"),
    [
        ("FluxTransformer2DModel", (384, 64), "FluxFillPipeline", "the mask and the masked image"),
        ("FluxTransformer2DModel", (128, 64), "FluxControlPipeline", "the control image"),
        ("WanTransformer3DModel", (36, 16), "WanImageToVideoPipeline", "the first frame"),
        ("UNet2DConditionModel", (7, 4), "StableDiffusionUpscalePipeline", "low-resolution"),
        ("UNet2DConditionModel", (5, 4), "StableDiffusionDepth2ImgPipeline", "a depth map"),
        ("UNet2DModel", (6, 3), "LDMSuperResolutionPipeline", "low-resolution"),
        ("SD3Transformer2DModel", (32, 16), "SomethingElse", "such as a mask"),
        ("PixArtTransformer2DModel", (8, 8), "PixArtAlphaPipeline", None),
        ("PixArtTransformer2DModel", (4, 8), "PixArtAlphaPipeline", None),
        ("DiTTransformer2DModel", (4, 8), "DiTPipeline", None),
        ("FluxTransformer2DModel", (64, None), "FluxPipeline", None),
    ],
)  # fmt: skip
def test_the_rule_knows_every_family(tmp_path, class_name, config, pipeline, words) -> None:
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{pipeline}"}}', "utf-8")
    channels = dict(zip(("in_channels", "out_channels"), config, strict=True))
    source = Source("m", tmp_path, "x", class_name, channels, {}, ())
    if words is None:
        check_channels(source)
        return
    with pytest.raises(InputError, match=f"takes {config[0]} channels.*{words}") as refused:
        check_channels(source)
    assert "for inpainting" in str(refused.value.hint), "which is compiled"


def test_plan_and_inspect_go_on(tmp_path) -> None:
    from diffc.prune.planning import make_plan

    model = save_wide(tmp_path / "inp", 9)
    source = find_source(str(model), need_weights=False)
    recipe = resolve(family=source.class_name, flags={"prune": {"ratio": 0.3}})
    assert make_plan(source, recipe, None, {}, 4).compressed.macs > 0


@pytest.mark.slow
def test_a_learned_variance_goes_on_working(tmp_path) -> None:
    model = save_ddpm(tmp_path / "lv", in_channels=3, out_channels=6)
    report = compile_quickly(model, tmp_path / "out", "plan")
    assert report is not None


def test_a_vae_is_refused_before_the_first_stage(tmp_path) -> None:
    """Planned and inspected it can be; its stages would have no timesteps."""
    tiny_text.vae().save_pretrained(tmp_path / "vae")
    source = find_source(str(tmp_path / "vae"))
    with pytest.raises(InputError, match="AutoencoderKL is no denoiser") as refused:
        preflight(source, resolve(family=source.class_name), tmp_path / "out", "prune")
    assert "plan and inspect work" in str(refused.value.hint)
    assert not (tmp_path / "out").exists()


def test_a_vae_is_no_denoiser(tmp_path) -> None:
    tiny_text.vae().save_pretrained(tmp_path / "vae")
    check_channels(find_source(str(tmp_path / "vae")))
    edit_json(tmp_path / "vae" / "config.json", latent_channels=8)
    check_channels(find_source(str(tmp_path / "vae"), need_weights=False))
