"""Text encoders whose images are not decoded: conditions are those of diffusers' encode_prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import tiny_prompts

import diffc
from diffc.bundle import write_bundle
from diffc.models.load import load_text_parts
from diffc.models.source import find_source
from diffc_runtime import BadRequest, open_bundle
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
def test_sanas_latents_are_those_of_diffusers_pipeline(tmp_path):
    model = tiny_prompts.save_sana(tmp_path / "model")
    tiny_prompts.build_engines(model, tmp_path / "out", tmp_path / "cache")
    write_bundle(tmp_path / "out", tmp_path / "bundle", server="none", side="dense")
    pipe = open_bundle(tmp_path / "bundle")
    options = {"num_inference_steps": 4, "guidance_scale": 3.0}
    latents = pipe.sample(PROMPT, NEGATIVE, generator=5, **options)
    reference = diffc.load(model)
    reference.set_progress_bar_config(disable=True)
    side = 32 * pipe.sample_shape[-1]
    with torch.no_grad():
        exact = reference(
            PROMPT, NEGATIVE, latents=torch.from_numpy(image_noise(5, 0, 1, pipe.sample_shape)),
            height=side, width=side, use_resolution_binning=False, output_type="latent", **options,
        ).images  # fmt: skip
    assert_close(latents, exact)
    with pytest.raises(BadRequest, match="the samples are no images here"):
        pipe.sample(PROMPT, height=side)


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
