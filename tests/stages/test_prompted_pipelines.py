"""From a prompt to an image by engines alone: diffusers' own pipelines are the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from support import tiny_prompts
from support.noise_of_images import as_theirs
from support.shared import common_cache
from tritonclient.grpc.model_config_pb2 import TYPE_STRING, ModelConfig

import diffc
from diffc.bundle import triton_check
from diffc.bundle.build import write_bundle
from diffc_runtime import Pipeline, open_bundle
from diffc_runtime.noise import image_noise

SEED, N = 5, 2
PROMPT, NEGATIVE = "a red cat", "a dog"
OPTIONS = {"num_inference_steps": 4, "guidance_scale": 3.0}
WITHOUT_NEGATIVE = ("flux",)
"""Their guidance is an input, so that diffusers takes no negative prompt for it."""
BINNED = ("pixart", "sana")
"""diffusers would change the size of their images to the nearest of a list."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=tiny_prompts.SAVERS)
def built(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """(the pipeline's name, its folder, a bundle of its engines)."""
    place = tmp_path_factory.mktemp("prompted")
    name = request.param
    tiny_prompts.SAVERS[name](place / "model")
    size = 16 if name == "flux" else None
    tiny_prompts.build_engines(place / "model", place / "out", common_cache(tmp_path_factory), size)
    write_bundle(place / "out", place / "bundle", server="none", side="dense")
    return name, place / "model", place / "bundle"


def expected(
    name: str, model: Path, pipe: Pipeline, output: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """What diffusers makes in torch of the same prompt, noise and steps."""
    reference = diffc.load(model)
    reference.set_progress_bar_config(disable=True)
    assert pipe.image_size is not None
    more = {} if name in WITHOUT_NEGATIVE else {"negative_prompt": NEGATIVE}
    more |= {"use_resolution_binning": False} if name in BINNED else {}
    noise = as_theirs(image_noise(SEED, 0, N, pipe.shape_at(size)), name)
    height, width = size or pipe.image_size
    with torch.no_grad():
        images = reference(
            PROMPT, latents=noise, num_images_per_prompt=N, height=height, width=width,
            output_type=output, **OPTIONS, **more,
        ).images  # fmt: skip
    return np.asarray(images)


def test_engines_make_the_images_of_diffusers_pipeline(built):
    name, model, bundle = built
    pipe = open_bundle(bundle)
    negative = None if name in WITHOUT_NEGATIVE else NEGATIVE
    options = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS}
    images = pipe(PROMPT, negative, output_type="np", **options).images
    wanted = expected(name, model, pipe, "np")
    assert wanted.std() > 0.01
    assert np.abs(images - wanted).max() <= 2 / 255
    pipe.decode = None
    latents = as_theirs(pipe.sample(PROMPT, negative, **options), name).numpy()
    exact = expected(name, model, pipe, "latent")
    assert np.linalg.norm(latents - exact) <= 1e-3 * np.linalg.norm(exact)
    other = as_theirs(pipe.sample("a blue house", negative, **options), name).numpy()
    assert np.linalg.norm(other - exact) > 1e-2 * np.linalg.norm(exact), "the prompt counts"


@pytest.mark.parametrize("name", ["sd3-without-t5", "pixart"])
def test_one_file_of_a_transformer_serves_two_sizes(name, tmp_path, tmp_path_factory):
    """16x24 and 24x16 pixels, as diffusers' own pipeline makes them."""
    tiny_prompts.SAVERS[name](tmp_path / "model")
    out = tmp_path / "out"
    tiny_prompts.build_engines(
        tmp_path / "model", out, common_cache(tmp_path_factory), ["8x12", "12x8"]
    )
    write_bundle(out, tmp_path / "bundle", server="none", side="dense")
    pipe, model = open_bundle(tmp_path / "bundle"), tmp_path / "model"
    assert pipe.image_sizes == ((16, 24), (24, 16))
    options = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS}
    for size in pipe.image_sizes:
        images = pipe(PROMPT, NEGATIVE, output_type="np", height=size[0], **options).images
        wanted = expected(name, model, pipe, "np", size)
        assert images.shape == wanted.shape == (N, *size, 3) and wanted.std() > 0.01
        assert np.abs(images - wanted).max() <= 2 / 255
    pipe.decode = None
    latents = pipe.sample(PROMPT, NEGATIVE, width=16, **options)
    exact = expected(name, model, pipe, "latent", size)
    assert np.linalg.norm(latents - exact) <= 1e-3 * np.linalg.norm(exact)


def test_without_a_negative_prompt_it_is_the_pipelines_own(built):
    name, model, bundle = built
    if name in WITHOUT_NEGATIVE:
        return
    reference = diffc.load(model)
    reference.set_progress_bar_config(disable=True)
    pipe = open_bundle(bundle)
    noise = torch.from_numpy(image_noise(SEED, 0, 1, pipe.sample_shape))
    assert pipe.image_size is not None
    more = {"use_resolution_binning": False} if name in BINNED else {}
    with torch.no_grad():
        exact = reference(
            "", latents=noise, output_type="latent", height=pipe.image_size[0],
            width=pipe.image_size[1], **OPTIONS, **more,
        ).images.numpy()  # fmt: skip
    pipe.decode = None
    latents = pipe.sample("", generator=SEED, **OPTIONS)
    assert np.linalg.norm(latents - exact) <= 1e-3 * np.linalg.norm(exact)


def test_the_bundles_own_program_takes_prompts_without_torch(built, tmp_path):
    _, _, bundle = built
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(bundle)!r})\n"
        "from diffc_runtime.__main__ import main\n"
        "from pathlib import Path\n"
        f"home = Path({str(bundle)!r})\n"
        "words = ['generate', 'a red cat', '--steps', '1', '--out', 'a.png']\n"
        "code = main(words, home)\n"
        "print(code, sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == "0 []", done.stderr
    assert (tmp_path / "a.png").is_file()
    assert "tokenizers" in (bundle / "README.md").read_text()


def test_the_bundle_names_its_encoders_and_each_is_close_to_torch(built):
    _, _, bundle = built
    plan = json.loads((bundle / "text" / "text.json").read_text())
    assert set(plan["encoders"]) == {path.name for path in bundle.glob("text_encoder*")}
    for name in plan["encoders"]:
        info = json.loads((bundle / name / "engine.json").read_text())
        assert info["precision_found"] == "fp32"
        assert info["source"]["parts"]


def test_a_model_repository_takes_prompts(built, tmp_path):
    """Each text encoder is a model of its own; a request has a prompt or conditions."""
    _, _, bundle = built
    made = write_bundle(bundle.parent / "out", tmp_path / "repo", server="triton", side="dense")
    encoders = sorted(path.parent.name for path in bundle.glob("text_encoder*/engine.json"))
    assert encoders and set(encoders) < set(made.models)
    assert triton_check.find_problems(tmp_path / "repo") == []
    for model in ("pipeline", "pipeline_bls"):
        folder = tmp_path / "repo" / model
        config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
        inputs = {tensor.name: tensor for tensor in config.input}
        for name in ("prompt", "negative_prompt"):
            assert (inputs[name].data_type, list(inputs[name].dims)) == (TYPE_STRING, [-1])
        assert all(tensor.optional for tensor in config.input)
        assert [output.name for output in config.output] == ["images", "samples", "notes"]
        assert (folder / "1" / "text" / "text.json").is_file()
    files = list((tmp_path / "repo/pipeline_bls/1").glob("text_encoder*/*"))
    assert {path.name for path in files} == {"engine.json"}, "the models have the weights"
    assert 'client.py "a red sneaker"' in (tmp_path / "repo" / "README.md").read_text()
