"""Sana and Wan: conditions as diffusers' encode_prompt gives them, and Sana's images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tiny_prompts
from support.shared import common_cache

import diffc
from diffc.bundle.build import write_bundle
from diffc.models.load import load_text_parts
from diffc.models.source import find_source
from diffc_runtime import open_bundle
from diffc_runtime.noise import image_noise
from diffc_runtime.prompts import PromptEncoder, open_prompts

PROMPT, NEGATIVE = "a Red cat", "a dog"


def prompts_of(model, place) -> PromptEncoder:
    out = tiny_prompts.build_texts(model, place / "out", place / "cache")
    folder = out / "engines" / tiny_prompts.TARGET
    prompts = open_prompts(out / "onnx" / "text", {"text_encoder": folder / "text_encoder"})
    assert prompts is not None
    return prompts


def assert_close(given: np.ndarray, expected: torch.Tensor) -> None:
    exact = expected.numpy()
    assert given.shape == exact.shape and exact.std() > 0.01
    assert np.linalg.norm(given - exact) <= 1e-3 * np.linalg.norm(exact)


@pytest.mark.slow
def test_sanas_conditions_have_the_instruction_before_the_prompt(tmp_path):
    model = tiny_prompts.save_sana(tmp_path / "model")
    prompts = prompts_of(model, tmp_path)
    use = prompts.plan.encoders["text_encoder"]
    assert use.prefix_tokens > 100 and use.length == 300
    pipeline = load_text_parts(find_source(model))
    lines = use.prefix.split("\n")
    with torch.no_grad():
        rows, mask, null, null_mask = pipeline.encode_prompt(
            PROMPT, True, NEGATIVE, complex_human_instruction=lines, device="cpu"
        )
    given, none = prompts.encode([PROMPT]), prompts.encode([NEGATIVE], negative=True)
    assert_close(given["encoder_hidden_states"], rows)
    assert_close(none["encoder_hidden_states"], null)
    assert np.array_equal(given["encoder_attention_mask"], mask.numpy())
    assert np.array_equal(none["encoder_attention_mask"], null_mask.numpy())


@pytest.mark.slow
def test_sana_makes_images_at_two_sizes_and_begins_with_one(tmp_path, tmp_path_factory):
    """diffusers has no image-to-image pipeline of Sana: its own gets a noised latent and the end
    of the noise levels."""
    model = tiny_prompts.save_sana(tmp_path / "model")
    cache = common_cache(tmp_path_factory)
    tiny_prompts.build_engines(model, tmp_path / "out", cache, ["4x8", "8x4"])
    write_bundle(tmp_path / "out", tmp_path / "bundle", server="none", side="dense")
    pipe, reference = open_bundle(tmp_path / "bundle"), diffc.load(model)
    reference.set_progress_bar_config(disable=True)
    assert pipe.image_sizes == ((32, 64), (64, 32))
    guided = {"guidance_scale": 3.0}
    for height, width in pipe.image_sizes:
        noise = torch.from_numpy(image_noise(5, 0, 1, pipe.shape_at((height, width))))
        theirs = {"height": height, "width": width, "use_resolution_binning": False, **guided}
        with torch.no_grad():
            exact = reference(
                PROMPT, NEGATIVE, latents=noise, num_inference_steps=4, output_type="np", **theirs
            ).images
        ours = {"num_inference_steps": 4, "generator": 5, **guided}
        images = pipe(PROMPT, NEGATIVE, height=height, output_type="np", **ours).images
        assert images.shape == exact.shape and exact.std() > 0.01
        assert np.abs(images - exact).max() <= 2 / 255
    picture = np.random.default_rng(1).integers(0, 256, (64, 32, 3), np.uint8)
    start, sigmas = _noised_by_half(reference, picture, noise)
    with torch.no_grad():
        exact = reference(
            PROMPT, NEGATIVE, latents=start, num_inference_steps=2, sigmas=sigmas,
            output_type="latent", **theirs,
        ).images  # fmt: skip
    pipe.decode = None
    assert_close(pipe.sample(PROMPT, NEGATIVE, image=picture, strength=0.5, **ours), exact)


def _noised_by_half(reference, picture, noise):
    """The picture's latent at the third of four steps, and the levels that are left, unshifted."""
    with torch.no_grad():
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
        clean = reference.vae.encode(pixels).latent * reference.vae.config.scaling_factor
    reference.scheduler.set_timesteps(4)
    left, shift = reference.scheduler.sigmas[2:4], reference.scheduler.config.shift
    start = left[0] * noise + (1 - left[0]) * clean
    return start, (left / (shift - (shift - 1) * left)).tolist()


@pytest.mark.slow
def test_wans_conditions_are_zeros_behind_the_prompt(tmp_path):
    model = tiny_prompts.save_wan(tmp_path / "model")
    prompts = prompts_of(model, tmp_path)
    pipeline = load_text_parts(find_source(model))
    with torch.no_grad():
        rows, null = pipeline.encode_prompt(
            PROMPT, NEGATIVE, max_sequence_length=512, device=torch.device("cpu")
        )
    assert_close(prompts.encode([PROMPT])["encoder_hidden_states"], rows)
    assert_close(prompts.encode([NEGATIVE], negative=True)["encoder_hidden_states"], null)
