"""The models that ship: their files are whole, and their prompts are a run's."""

from __future__ import annotations

import numpy as np
import pytest
from support.noise_of_images import our_noise

import diffc
from diffc.data.prompt_file import read_prompts
from diffc.data.recipe_of_model import recipe_of_model
from diffc.models.load import load_denoiser
from diffc.models.shipped import SHIPPED, is_shipped, shipped_models, shipped_prompts
from diffc.models.source import find_source

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "pink")


def test_the_folders_are_the_names():
    assert shipped_models() == ["demo", "demo-text"]
    assert not is_shipped("demo-") and not is_shipped("") and not is_shipped("../shipped/demo")


@pytest.mark.parametrize("name", shipped_models())
def test_every_model_has_a_card_and_no_path_of_the_machine_that_made_it(name):
    card = (SHIPPED / name / "README.md").read_text()
    assert "license: apache-2.0" in card and "MIT licence" in card
    for config in (SHIPPED / name).rglob("*.json"):
        assert "_name_or_path" not in config.read_text(), config


def test_the_model_of_words_is_whole():
    source = find_source("demo-text")
    assert source.class_name == "UNet2DConditionModel"
    assert sum(p.numel() for p in load_denoiser(source).parameters()) == 2_491_172
    pipeline = diffc.load("demo-text")
    tokens = pipeline.tokenizer("a blue ankle boot \N{ATHLETIC SHOE}").input_ids
    assert pipeline.tokenizer.unk_token_id not in tokens[1:-1]
    assert pipeline.tokenizer.model_max_length == 16


def test_its_prompts_have_every_colour_and_fit_the_encoder():
    prompts = read_prompts(SHIPPED / "demo-text" / "prompts.txt")
    assert len(set(prompts)) == len(prompts) == 80
    for colour in COLOURS:
        assert sum(colour in prompt.split() for prompt in prompts) == 10
    tokenizer = diffc.load("demo-text").tokenizer
    assert max(len(tokenizer(prompt).input_ids) for prompt in prompts) <= 16


def test_a_run_takes_the_models_own_prompts_where_none_are_named(tmp_path):
    source, own = find_source("demo-text"), str(shipped_prompts("demo-text"))
    assert recipe_of_model(source, None, {}).data.prompts == own
    mine = tmp_path / "mine.txt"
    mine.write_text("a hat\n")
    flags = {"data": {"prompts": str(mine)}}
    assert recipe_of_model(source, None, flags).data.prompts == str(mine)
    tensors = {"data": {"source": "inputs.safetensors"}}
    assert recipe_of_model(source, None, tensors).data.prompts is None
    assert recipe_of_model(find_source("demo"), None, {}).data.prompts is None


@pytest.mark.slow
def test_a_prompts_image_by_engines_is_that_of_diffusers(tmp_path):
    import torch

    from diffc_runtime.noise import image_noise

    options = {
        "data": {"images": 8, "steps": 4}, "distill": {"steps": 2, "aim": "all-steps"},
        "quality": {"images": 2},
        "loops": ["ddim:4@trailing"], "reference_loop": "ddim:4@trailing",
    }  # fmt: skip
    out = tmp_path / "out"
    diffc.compile(
        "demo-text", ratio=0.5, out=out, target=["ort-cpu"], options=options, stop="build"
    )
    for side, model in (("dense", "demo-text"), ("compressed", out / "model")):
        reference, pipe = diffc.load(model), diffc.pipeline(out, side=side)
        reference.set_progress_bar_config(disable=True)
        noise = torch.from_numpy(image_noise(5, 0, 1, pipe.sample_shape))
        settings = {"num_inference_steps": 4, "guidance_scale": 3.0}
        wanted = reference("a blue ankle boot", latents=noise, output_type="np", **settings).images
        image = pipe("a blue ankle boot", generator=5, output_type="np", **settings).images
        assert np.abs(image - wanted).max() <= 2 / 255
        changed = from_an_image(pipe, reference, settings, image)
        assert np.abs(changed - image).max() > 0.1, "it is another image"
        red, _, blue = wanted[0].reshape(-1, 3).mean(0)
        assert blue > 2 * red or side == "compressed", "the dense model knows its colours"


def from_an_image(pipe, reference, settings, image):
    """An image of the image before, by the engines: diffusers' own pipeline is the oracle."""
    from diffusers import StableDiffusionImg2ImgPipeline

    other = StableDiffusionImg2ImgPipeline(**reference.components)
    other.set_progress_bar_config(disable=True)
    given = {"image": image, "strength": 0.75, "output_type": "np", **settings}
    with our_noise(pipe, (32, 32), 6, 1):
        wanted = other("a red sandal", **given).images
    changed = pipe("a red sandal", generator=6, **given).images
    assert np.abs(changed - wanted).max() <= 2 / 255
    return changed
