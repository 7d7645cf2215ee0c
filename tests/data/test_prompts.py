"""Prompts and latents of tiny text pipelines, against the pipeline's own components."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from support.family_cases import case
from support.quick import QUICK
from support.tiny_text import save_sd, save_sdxl, vae

import diffc
from diffc.data.clean import CleanSet
from diffc.data.latents import decode_latents, encode_images, pixel_shape, scale_factor
from diffc.data.prompts import encode_prompts, read_prompts
from diffc.data.synthetic import Conditioning, guided_call
from diffc.errors import InputError, RequestError
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.source import find_source
from diffc.stages.data import CLEAN
from diffc_export.events import drain

PROMPTS = ["a red cat", "a blue house", "dog"]


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return save_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


def encoded(folder, prompts, **options):
    source = find_source(str(folder))
    specs = family(source.class_name).specs(source.config)
    return drain(encode_prompts(source, specs, prompts, **options))


def test_stable_diffusions_conditions_are_its_text_encoders(sd) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(sd)
    found = encoded(sd, PROMPTS, batch=2)

    def by_hand(text: str) -> torch.Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
        with torch.no_grad():
            return pipeline.text_encoder(ids.input_ids).last_hidden_state[0]

    assert set(found.rows) == {"encoder_hidden_states"} == set(found.null)
    for i, text in enumerate(PROMPTS):
        torch.testing.assert_close(found.rows["encoder_hidden_states"][i], by_hand(text))
    torch.testing.assert_close(found.null["encoder_hidden_states"], by_hand(""))
    rows = found.rows["encoder_hidden_states"]
    assert (rows[0] - rows[1]).abs().max() > 1e-3  # the texts are told apart


def test_sdxls_conditions_are_what_its_pipeline_calls_the_unet_with(sdxl) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl)
    seen: dict = {}

    def catch(_module, args, kwargs):
        seen.update(kwargs, sample=args[0])

    pipeline.unet.register_forward_pre_hook(catch, with_kwargs=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(PROMPTS[1], height=16, width=16, num_inference_steps=1, output_type="latent")
    found = encoded(sdxl, PROMPTS)
    theirs = {"encoder_hidden_states": seen["encoder_hidden_states"], **seen["added_cond_kwargs"]}
    for name, (null, row) in theirs.items():  # the pipeline's batch: null, then the prompt
        torch.testing.assert_close(found.rows[name][1], row)
        if name in found.null:
            torch.testing.assert_close(found.null[name], null)
    assert set(found.rows) == set(theirs)
    assert set(found.null) == {"encoder_hidden_states", "text_embeds"}


def test_guidance_is_the_published_mixture(sd, monkeypatch) -> None:
    """In fp32, so that only the formula can differ; and scale 1 asks the model once."""
    monkeypatch.setattr("diffc.data.synthetic.fast_dtype", lambda _device: torch.float32)
    torch.manual_seed(0)
    source = find_source(str(sd))
    kind = family(source.class_name)
    found = encoded(sd, PROMPTS)
    model = StableDiffusionPipeline.from_pretrained(sd).unet.eval()
    x, t = torch.randn(3, 4, 8, 8), torch.full((3,), 500)

    def at(rows):
        with torch.no_grad():
            return model(x, t, encoder_hidden_states=rows, return_dict=False)[0]

    rows, null = found.rows["encoder_hidden_states"], found.null["encoder_hidden_states"]
    expected = at(null.expand(3, -1, -1)) * -2 + at(rows) * 3
    denoiser = denoiser_of(model, kind, source.scheduler)
    mixed = guided_call(denoiser, Conditioning(found.rows, found.null, 3.0))(x, t)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    assert (expected - at(rows)).abs().max() > 0.01
    calls: list = []
    model.register_forward_hook(lambda *_: calls.append(1))
    guided_call(denoiser, Conditioning(found.rows, found.null, 1.0))(x, t)
    assert len(calls) == 1


def pictures(folder, n: int = 6):
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_latents_are_the_vaes_mean_scaled(sd) -> None:
    source, images = find_source(str(sd)), torch.rand(3, 3, 16, 16) * 2 - 1
    own = StableDiffusionPipeline.from_pretrained(sd).vae
    assert scale_factor(source) == 2 and pixel_shape(source, (4, 8, 8)) == (3, 16, 16)
    with torch.no_grad():
        expected = own.encode(images).latent_dist.mean * 0.5
        back = own.decode(expected / 0.5).sample
    latents = drain(encode_images(source, images, (4, 8, 8)))
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(drain(decode_latents(source, latents)), back)


def test_flux_is_called_as_its_pipeline_calls_it() -> None:
    """Latents that are not square, packed, and with the places that the pipeline numbers."""
    from diffusers import FluxPipeline

    tiny = case("flux")
    given = {**tiny.inputs, "sample": torch.randn(2, 2, 8, 12)}
    text = given["encoder_hidden_states"]
    with torch.no_grad():
        theirs = tiny.model(
            FluxPipeline._pack_latents(given["sample"], 2, 2, 8, 12),
            timestep=given["timestep"] / 1000, encoder_hidden_states=text,
            pooled_projections=given["pooled_projections"], guidance=given["guidance"],
            img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32),
            txt_ids=torch.zeros(text.shape[1], 3), return_dict=False,
        )[0]  # fmt: skip
        ours = tiny.family.call(tiny.model, given)
    assert ours.shape == (2, 2, 8, 12)
    assert torch.equal(FluxPipeline._pack_latents(ours, 2, 2, 8, 12), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("with_images", [False, True])
def test_a_text_model_is_distilled_with_prompts(sd, tmp_path, with_images) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join([*PROMPTS, "", "  "]), "utf-8")
    data = {**QUICK["data"], "prompts": str(prompts)}
    if with_images:
        data["source"] = str(pictures(tmp_path / "images"))
    options = {**QUICK, "data": data, "distill": {**QUICK["distill"], "null_share": 0.5}}
    out = tmp_path / "out"
    report = diffc.compile(sd, ratio=0.3, out=out, stop="distill", options=options)
    clean = CleanSet.load(out / ".diffc" / CLEAN)
    texts = encoded(sd, PROMPTS)
    n = 6 if with_images else 8
    assert clean.sample.shape == (n, 4, 8, 8)
    for i in range(n):
        row = clean.conditions["encoder_hidden_states"][i]
        torch.testing.assert_close(row, texts.rows["encoder_hidden_states"][i % 3])
    torch.testing.assert_close(
        clean.null["encoder_hidden_states"], texts.null["encoder_hidden_states"]
    )
    assert report.distillation["steps"] == 4
    assert report.quality["ssim"]["n"] == 4
    assert Image.open(out / "samples" / "dense.png").height >= 16


@pytest.mark.slow
def test_changed_prompts_are_encoded_anew(sd, tmp_path) -> None:
    prompts, digests = tmp_path / "prompts.txt", []
    for text in ("a cat", "a dog", "a cat"):
        prompts.write_text(text, "utf-8")
        data = {**QUICK["data"], "prompts": str(prompts)}
        diffc.compile(
            sd, ratio=0.3, out=tmp_path / "out", stop="plan", options={**QUICK, "data": data}
        )
        digests.append(CleanSet.load(tmp_path / "out" / ".diffc" / CLEAN).sample.sum().item())
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.slow
def test_dits_null_label_is_the_one_after_the_last(tmp_path) -> None:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    with torch.no_grad():
        for value in model.parameters():  # published ones start from zeros: no label would matter
            value.add_(0.2 * torch.randn_like(value))
    pipeline = DiTPipeline(model, vae(), DDIMScheduler(clip_sample=False))
    pipeline.save_pretrained(tmp_path / "dit")
    clean = {}
    for guidance in (1.0, 4.0):
        options = {**QUICK, "data": {**QUICK["data"], "guidance": guidance}}
        out = tmp_path / f"out-{guidance}"
        diffc.compile(tmp_path / "dit", ratio=0.3, out=out, stop="distill", options=options)
        clean[guidance] = CleanSet.load(out / ".diffc" / CLEAN)
    assert int(clean[4.0].null["class_labels"]) == 10 == model.config.num_embeds_ada_norm
    assert not torch.equal(clean[1.0].sample, clean[4.0].sample)
    assert torch.equal(clean[1.0].conditions["class_labels"], clean[4.0].conditions["class_labels"])


def test_prompts_that_cannot_be(tmp_path, tiny_model) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(InputError, match="no prompts"):
        read_prompts(empty)
    with pytest.raises(InputError, match="--prompts: there is nothing at"):
        read_prompts(tmp_path / "missing.txt")
    empty.write_text("a cat")
    options = {**QUICK, "data": {**QUICK["data"], "prompts": str(empty)}}
    with pytest.raises(RequestError, match="attends to no text"):
        diffc.compile(tiny_model, ratio=0.4, out=tmp_path / "out", stop="plan", options=options)


@pytest.mark.parametrize("name", ["tokenizer", "text_encoder"])
def test_a_part_that_the_pipeline_goes_without_is_named(sd, tmp_path, name) -> None:
    model = tmp_path / "model"
    shutil.copytree(sd, model)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, name: [None, None]}))
    words = rf"cannot encode the prompts: model_index.json has \[null, null\] for its {name}\b"
    with pytest.raises(InputError, match=words):
        encoded(model, ["a"])


def test_a_text_model_without_prompts_says_what_to_give(sd, tmp_path) -> None:
    with pytest.raises(RequestError, match="encoder_hidden_states") as caught:
        diffc.compile(sd, ratio=0.3, out=tmp_path / "out", stop="plan", options=QUICK)
    assert "--prompts" in caught.value.hint
