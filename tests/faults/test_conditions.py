"""Conditions that are no text have the pipeline's own values; guidance follows the model."""

from __future__ import annotations

import inspect
import shutil

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file
from support import tiny_text
from support.pipelines import edit_json, other_parts, save_ddpm, save_sd
from support.runs import compile_quickly, refusal

from diffc.data.conditions import guidance_embedding, pipeline_conditions
from diffc.data.guidance import decide_guidance
from diffc.data.latents import decode_latents, encode_images, latent_factors, load_vae
from diffc.data.prompts import encode_prompts, encoding_arguments
from diffc.errors import InputError
from diffc.models.families import family
from diffc.models.source import Source, find_source
from diffc.stages.data import CLEAN
from diffc_export.events import drain

PROMPTS = ["a red cat", "a blue dog"]


def specs_of(source: Source):
    return family(source.class_name).specs(source.config)


def encoded(folder, **options):
    source = find_source(str(folder))
    return drain(encode_prompts(source, specs_of(source), PROMPTS, **options))


def prompts_file(folder) -> str:
    path = folder / "prompts.txt"
    path.write_text("\n".join(PROMPTS), "utf-8")
    return str(path)


def save_refiner(folder):
    torch.manual_seed(0)
    unet = tiny_text.unet(
        cross_attention_dim=24, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=1280 + 5 * 8,
    )  # fmt: skip
    StableDiffusionXLImg2ImgPipeline(
        vae=tiny_text.vae(), text_encoder=None, tokenizer=None, unet=unet,
        text_encoder_2=tiny_text.CLIPTextModelWithProjection(tiny_text.text_config(1280)),
        tokenizer_2=tiny_text.tokenizer(folder.with_name("words")),
        scheduler=DDIMScheduler(clip_sample=False), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def seen_by_the_unet(pipeline, **call) -> dict:
    """What a pipeline's own call gives its denoiser beside sample and timestep."""
    seen: dict = {}

    def catch(_module, _args, kwargs):
        seen.update(kwargs)

    pipeline.unet.register_forward_pre_hook(catch, with_kwargs=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(PROMPTS[0], output_type="latent", **call)
    return {**seen, **(seen.get("added_cond_kwargs") or {})}


def test_the_refiner_is_told_an_aesthetic_score(tmp_path) -> None:
    model = save_refiner(tmp_path / "refiner")
    ours = encoded(model)
    assert ours.rows["time_ids"].tolist() == [[16, 16, 0, 0, 6]] * 2
    assert ours.null["time_ids"].tolist() == [16, 16, 0, 0, 2.5]
    assert any("time_ids 16 16 0 0 6" in note for note in ours.notes)
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(model)
    theirs = seen_by_the_unet(
        pipeline, image=torch.rand(1, 3, 16, 16), num_inference_steps=2, strength=0.9
    )
    for name in ("time_ids", "text_embeds", "encoder_hidden_states"):
        torch.testing.assert_close(theirs[name][1], ours.rows[name][0])
        torch.testing.assert_close(theirs[name][0], ours.null[name])


def test_the_base_model_is_told_its_size(tmp_path) -> None:
    model = tiny_text.save_sdxl(tmp_path / "sdxl")
    ours = encoded(model)
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    theirs = seen_by_the_unet(pipeline, height=16, width=16, num_inference_steps=1)
    torch.testing.assert_close(theirs["time_ids"][1], ours.rows["time_ids"][0])
    assert "time_ids" not in ours.null


def save_lcm(folder):
    torch.manual_seed(0)
    parts = other_parts(folder)
    LatentConsistencyModelPipeline(
        unet=tiny_text.unet(cross_attention_dim=24, time_cond_proj_dim=13),
        scheduler=LCMScheduler(beta_schedule="scaled_linear"), **parts,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_consistency_model_is_told_its_guidance(tmp_path) -> None:
    model = save_lcm(tmp_path / "lcm")
    ours, again = encoded(model), encoded(model)
    assert torch.equal(ours.rows["timestep_cond"], again.rows["timestep_cond"])
    assert not ours.null  # nothing is guided away from
    pipeline = LatentConsistencyModelPipeline.from_pretrained(model)
    theirs = seen_by_the_unet(pipeline, height=16, width=16, num_inference_steps=1)
    torch.testing.assert_close(
        theirs["timestep_cond"][0], ours.rows["timestep_cond"][0], atol=1e-4, rtol=1e-4
    )
    told = encoded(model, guidance=3.0).rows["timestep_cond"][0]
    torch.testing.assert_close(told, guidance_embedding(2.0, 13))


@pytest.mark.slow
def test_two_runs_of_a_consistency_model_have_the_same_data(tmp_path, monkeypatch) -> None:
    model, data = save_lcm(tmp_path / "lcm"), {"prompts": prompts_file(tmp_path)}
    rows = []
    for name in ("a", "b"):
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / f"cache-{name}"))
        compile_quickly(model, tmp_path / name, "plan", data=data)
        rows.append(load_file(tmp_path / name / ".diffc" / CLEAN))
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])


def source_like(tmp_path, class_name: str, config: dict, pipeline: str, name: str = "m") -> Source:
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{pipeline}"}}', "utf-8")
    return Source(name, tmp_path, "transformer", class_name, config, {}, ())


@pytest.mark.parametrize(("pipeline", "scale"), [("FluxPipeline", 3.5), ("FluxFillPipeline", 30.0)])
def test_a_guidance_input_is_the_pipelines_default(tmp_path, pipeline, scale) -> None:
    source = source_like(tmp_path, "FluxTransformer2DModel", {"guidance_embeds": True}, pipeline)
    specs = family(source.class_name).specs(source.config, 8)
    fixed = pipeline_conditions(source, specs)
    assert fixed.rows["guidance"].item() == scale
    assert set(fixed.rows) == {"guidance"}
    assert not decide_guidance(source, None).has_null
    assert pipeline_conditions(source, specs, 2.0).rows["guidance"].item() == 2.0


def test_pixart_is_told_the_pixels_of_its_images(tmp_path) -> None:
    config = {"sample_size": 128, "use_additional_conditions": True}
    source = source_like(tmp_path, "PixArtTransformer2DModel", config, "PixArtAlphaPipeline")
    fixed = pipeline_conditions(source, family(source.class_name).specs(config, None))
    assert fixed.rows["resolution"].tolist() == [128, 128]  # without a VAE, its own pixels
    assert fixed.rows["aspect_ratio"].tolist() == [1]


@pytest.mark.parametrize(
    ("scheduler", "name", "scale"),
    [
        (EulerAncestralDiscreteScheduler(timestep_spacing="trailing"), "m", 1),
        (diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"), "m", 1),
        (LCMScheduler(), "m", 1),
        (diffusers.TCDScheduler(), "m", 1),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "stable-diffusion-3.5-large-turbo", 1),
        (diffusers.EulerDiscreteScheduler(), "org/SDXL-Lightning@main", 1),
        (EulerAncestralDiscreteScheduler(), "m", 4),
        (
            diffusers.EulerDiscreteScheduler(
                timestep_spacing="trailing", rescale_betas_zero_snr=True
            ),
            "m",
            4,
        ),
        (DDIMScheduler(timestep_spacing="trailing"), "m", 4),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "turboprop-photos", 4),
    ],
)
def test_models_distilled_for_few_steps_are_not_guided(tmp_path, scheduler, name, scale) -> None:
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    (tmp_path / "model_index.json").write_text('{"_class_name": "X"}', "utf-8")
    source = Source(name, tmp_path, "unet", "UNet2DConditionModel", {}, config, ())
    guidance = decide_guidance(source, None)
    assert guidance.scale == scale and guidance.has_null == (scale != 1)
    assert decide_guidance(source, 2.5).scale == 2.5 and decide_guidance(source, 2.5).has_null


@pytest.mark.slow
def test_a_note_says_why_and_a_flag_changes_it(tmp_path) -> None:
    model, data = save_sd(tmp_path / "tu"), {"prompts": prompts_file(tmp_path)}
    EulerAncestralDiscreteScheduler(
        beta_schedule="scaled_linear", timestep_spacing="trailing"
    ).save_pretrained(model / "scheduler")
    edit_json(
        model / "model_index.json", scheduler=["diffusers", "EulerAncestralDiscreteScheduler"]
    )
    report = compile_quickly(model, tmp_path / "one", "plan", data=data)
    assert any("no classifier-free guidance" in n and "--guidance" in n for n in report.notes)
    guided = compile_quickly(model, tmp_path / "two", "plan", data={**data, "guidance": 4.0})
    assert not any("classifier-free" in note for note in guided.notes)
    one, two = (load_file(tmp_path / name / ".diffc" / CLEAN) for name in ("one", "two"))
    assert not torch.equal(one["sample"], two["sample"])


def test_guidance_is_a_flag_of_compile_and_plan() -> None:
    from diffc.cli.compile import compile_
    from diffc.cli.inspect import plan_

    for verb in (compile_, plan_):
        assert "guidance" in inspect.signature(verb).parameters


@pytest.mark.parametrize(
    ("pipeline", "name", "expected"),
    [
        ("SanaPipeline", "complex_human_instruction", list),
        ("SanaPipeline", "clean_caption", bool),
        ("PixArtAlphaPipeline", "clean_caption", True),
        ("PixArtSigmaPipeline", "clean_caption", True),
        ("StableDiffusionXLPipeline", "clip_skip", None),
    ],
)
def test_prompts_are_encoded_with_the_defaults_of_the_call(pipeline, name, expected) -> None:
    kind = getattr(diffusers, pipeline)
    ours = encoding_arguments(kind, 300, "cpu", negative=False)
    default = inspect.signature(kind.__call__).parameters[name].default
    assert ours[name] == default
    assert isinstance(default, expected) if isinstance(expected, type) else default is expected
    assert ours["do_classifier_free_guidance"] is False and "prompt" not in ours


def test_a_pipeline_that_encodes_no_prompts_is_refused(tmp_path) -> None:
    model = tmp_path / "ip"
    torch.manual_seed(0)
    StableDiffusionInstructPix2PixPipeline(
        unet=tiny_text.unet(cross_attention_dim=24), scheduler=DDIMScheduler(clip_sample=False),
        **other_parts(model),
    ).save_pretrained(model)  # fmt: skip
    error = refusal(model, tmp_path / "out", data={"prompts": prompts_file(tmp_path)})
    assert "StableDiffusionInstructPix2PixPipeline encodes no prompts" in str(error)
    assert "--data FILE.safetensors" in str(error.hint)


@pytest.mark.parametrize("pipeline", ["StableDiffusionImageVariationPipeline", "AudioLDMPipeline"])
def test_so_are_its_kin(tmp_path, pipeline) -> None:
    model = save_sd(tmp_path / "m")
    edit_json(model / "model_index.json", _class_name=pipeline)
    error = refusal(model, tmp_path / "out", data={"prompts": prompts_file(tmp_path)})
    assert f"{pipeline} encodes no prompts" in str(error)


def test_a_condition_that_prompts_do_not_give_is_refused_by_name(tmp_path) -> None:
    """Image embeddings of an image-variation model, as class labels."""
    model = save_sd(tmp_path / "m")
    unet = tiny_text.unet(
        cross_attention_dim=24, class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )  # fmt: skip
    shutil.rmtree(model / "unet")
    unet.save_pretrained(model / "unet")
    error = refusal(model, tmp_path / "out", data={"prompts": prompts_file(tmp_path)})
    assert "takes 'class_labels'" in str(error) and "projection" in str(error)


def test_without_prompts_a_text_model_is_refused_before_any_work(tmp_path) -> None:
    model = save_sd(tmp_path / "m")
    error = refusal(model, tmp_path / "out")
    assert "'encoder_hidden_states'" in str(error) and "--prompts" in str(error.hint)
    classes = save_ddpm(tmp_path / "c", num_class_embeds=None, class_embed_type="timestep")
    assert "'class_labels'" in str(refusal(classes, tmp_path / "out2"))


@pytest.mark.slow
def test_labels_beside_prompts_are_drawn_with_the_seed(tmp_path, monkeypatch) -> None:
    model, data = save_sd(tmp_path / "m"), {"prompts": prompts_file(tmp_path)}
    shutil.rmtree(model / "unet")
    tiny_text.unet(cross_attention_dim=24, num_class_embeds=7).save_pretrained(model / "unet")
    rows = []
    for name in ("a", "b"):
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / f"cache-{name}"))
        compile_quickly(model, tmp_path / name, "plan", data=data)
        rows.append(load_file(tmp_path / name / ".diffc" / CLEAN))
    assert torch.equal(rows[0]["class_labels"], rows[1]["class_labels"])
    assert len(rows[0]["class_labels"].unique()) > 1


def save_scaled_vae(model, mean, std):
    vae = tiny_text.vae()
    vae.register_to_config(latents_mean=mean, latents_std=std)
    shutil.rmtree(model / "vae")
    vae.save_pretrained(model / "vae")
    return find_source(str(model))


def test_latents_are_scaled_channel_by_channel_where_the_vae_says_so(tmp_path) -> None:
    model = tiny_text.save_sdxl(tmp_path / "x")
    source = save_scaled_vae(model, [1.0, 2.0, 3.0, 4.0], [0.5, 0.25, 1.0, 2.0])
    vae, z = load_vae(source), torch.randn(2, 4, 8, 8)
    mean, std = (
        torch.tensor(vae.config[key]).view(1, 4, 1, 1) for key in ("latents_mean", "latents_std")
    )
    with torch.no_grad():
        theirs = vae.decode(z * std / vae.config.scaling_factor + mean, return_dict=False)[0]
    torch.testing.assert_close(drain(decode_latents(source, z)), theirs)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        value = vae.encode(images).latent_dist.mode()
    expected = (value - mean) * vae.config.scaling_factor / std
    torch.testing.assert_close(drain(encode_images(source, images, (4, 8, 8))), expected)


def test_a_mean_of_other_channels_is_one_line(tmp_path) -> None:
    model = tiny_text.save_sdxl(tmp_path / "x")
    source = save_scaled_vae(model, [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="have 3 values, and its latents 4 channels"):
        drain(decode_latents(source, torch.randn(1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, (0.5, 0.1)),
        ({"scaling_factor": 0.5, "latents_mean": [1.0], "latents_std": [2.0]}, ([0.25], [1.0])),
        ({"latents_mean": [1.0], "latents_std": None}, (1.0, 0.0)),
        ({"scaling_factor": None}, (1.0, 0.0)),
    ],
)
def test_the_factors_of_a_vaes_config(config, expected) -> None:
    assert latent_factors(config) == expected


def test_the_served_loop_decodes_with_a_factor_for_each_channel() -> None:
    import numpy as np

    from diffc_runtime.pipeline import Pipeline

    vae = AutoencoderKL(latents_mean=[1.0, 2.0], latents_std=[0.5, 4.0], scaling_factor=0.5,
                        latent_channels=2)  # fmt: skip
    scale, shift = latent_factors(dict(vae.config))
    seen: list = []
    pipeline = Pipeline(
        lambda arrays: np.zeros_like(arrays["sample"]), {"_class_name": "DDIMScheduler"}, (2, 4, 4),
        decode=lambda x: seen.append(x) or np.zeros((len(x), 3, 8, 8), np.float32),
        latent_scale=scale, latent_shift=shift,
    )  # fmt: skip
    x = np.ones((1, 2, 4, 4), np.float32)
    pipeline._decode_latents(x, None)
    np.testing.assert_allclose(seen[0][0, :, 0, 0], [1 * 0.5 / 0.5 + 1, 1 * 4 / 0.5 + 2])
