"""Image-to-image and inpainting by engines alone: diffusers' own pipelines are the oracle."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_autoencoders, tiny_prompts, tiny_text
from support.command import diffc_in_process
from support.noise_of_images import as_theirs, our_noise
from support.quick import QUICK
from support.runs import compile_quickly
from support.shared import common_cache

import diffc
from diffc.bundle.build import write_bundle
from diffc.generate.torch_model import masked_decoder
from diffc.models.source import find_source
from diffc_runtime import BadRequest, Pipeline, open_bundle, open_engine
from diffc_runtime.bundles import decoder_of, masked_decoder_of

SEED, N = 5, 2
PROMPT = "a red cat"
OPTIONS = {"num_inference_steps": 6, "guidance_scale": 3.0}
PIPELINES = {
    "sd": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "flux": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
}
NAMES = ["sd", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PIPELINES)[1:])]


@pytest.fixture(scope="module", params=NAMES)
def built(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """(the pipeline's name, its folder, a bundle of its engines)."""
    place, name = tmp_path_factory.mktemp("image"), request.param
    tiny_prompts.SAVERS[name](place / "model")
    size = 16 if name == "flux" else None
    tiny_prompts.build_engines(place / "model", place / "out", common_cache(tmp_path_factory), size)
    write_bundle(place / "out", place / "bundle", server="none", side="dense")
    return name, place / "model", place / "bundle"


def picture(size: tuple[int, int], seed: int = 1) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def half_mask(size: tuple[int, int]) -> Image.Image:
    """The right half and one pixel row are made anew."""
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = 255
    mask[1] = 255
    return Image.fromarray(mask)


def expected(kind: str, model: Path, pipe: Pipeline, output: str, **given: Any) -> np.ndarray:
    """What diffusers makes in torch; of the pipeline's usual size, or the one that is given."""
    cls, parts = getattr(diffusers, kind), diffc.load(model).components
    reference = cls(**{name: parts[name] for name in parts if name in _arguments(cls.__init__)})
    reference.set_progress_bar_config(disable=True)
    assert pipe.image_size is not None
    size = given.pop("height", pipe.image_size[0]), given.pop("width", pipe.image_size[1])
    sizes = dict(zip(("height", "width"), size, strict=True))
    sizes = {name: side for name, side in sizes.items() if name in _arguments(cls.__call__)}
    with torch.no_grad(), our_noise(pipe, size, SEED, N):
        images = reference([PROMPT] * N, output_type=output, **sizes, **OPTIONS, **given).images
    return np.asarray(images)


def _arguments(call: Any) -> set[str]:
    return set(inspect.signature(call).parameters)


def both(built, kind: str, given: dict[str, Any]) -> None:
    """Latents within 1e-3, images within 2 of 255, and the image counts."""
    _, model, bundle = built
    pipe = open_bundle(bundle)
    ours = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS, **given}
    theirs = {k: [v] * N if k in ("image", "mask_image") else v for k, v in given.items()}
    images = pipe(PROMPT, output_type="np", **ours).images
    wanted = expected(kind, model, pipe, "np", **theirs)
    assert wanted.std() > 0.01
    assert np.abs(images - wanted).max() <= 2 / 255
    pipe.decode = None
    latents = as_theirs(pipe.sample(PROMPT, **ours), built[0]).numpy()
    exact = expected(kind, model, pipe, "latent", **theirs)
    assert np.linalg.norm(latents - exact) <= 1e-3 * np.linalg.norm(exact)
    if given["strength"] == 1:
        return  # a flow begins with noise alone there
    other = {**ours, "image": picture(pipe.image_size, 2)}
    other = as_theirs(pipe.sample(PROMPT, **other), built[0]).numpy()
    assert np.linalg.norm(other - exact) > 2e-3 * np.linalg.norm(exact), "the image counts"


@pytest.mark.slow
def test_engines_change_an_image_as_diffusers_pipeline_does(built):
    pipe = open_bundle(built[2])
    for strength in (0.5, 1.0):
        given = {"image": picture(pipe.image_size), "strength": strength}
        both(built, PIPELINES[built[0]][0], given)


@pytest.mark.slow
def test_engines_fill_in_a_mask_as_diffusers_pipeline_does(built):
    size = open_bundle(built[2]).image_size
    for strength in (0.5, 1.0):
        given = {"image": picture(size), "mask_image": half_mask(size), "strength": strength}
        both(built, PIPELINES[built[0]][1], given)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in PIPELINES])
def sized(request, tmp_path_factory) -> tuple[str, Path, Callable[[], Pipeline]]:
    """One file for two sizes that are not square: 16x24 and 24x16 pixels.

    (the pipeline's name, the folder of the model that its engine runs, what opens it)
    """
    place, name = tmp_path_factory.mktemp("sized"), request.param
    sizes = ["8x12", "12x8"]
    if name == "flux":
        return name, *_compiled_flux(place, sizes)
    tiny_prompts.SAVERS[name](place / "model")
    tiny_prompts.build_engines(
        place / "model", place / "out", common_cache(tmp_path_factory), sizes
    )
    write_bundle(place / "out", place / "bundle", server="none", side="dense")
    return name, place / "model", lambda: open_bundle(place / "bundle")


def _compiled_flux(place: Path, sizes: list[str]) -> tuple[Path, Callable[[], Pipeline]]:
    """FLUX through the whole chain; its images are the compressed model's, from OUT."""
    tiny_prompts.save_flux(place / "model", num_layers=1, num_single_layers=1)
    (place / "prompts.txt").write_text("a red cat\na blue house\n")
    report = compile_quickly(
        place / "model", place / "out", "bench",
        data={"prompts": str(place / "prompts.txt")}, export={"resolution": sizes},
        build={"batch": (1,)}, measure={"frontier": "off"}, repair={"mode": "off"},
    )  # fmt: skip
    rows = [(row.resolution, row.compressed.parity.passed) for row in report.targets]
    assert [(tuple(size), passed) for size, passed in rows] == [((8, 12), True), ((12, 8), True)]
    return place / "out" / "model", lambda: diffc.pipeline(place / "out")


def test_one_file_serves_two_sizes_as_diffusers_makes_them(sized):
    name, model, opened = sized
    kind = PIPELINES[name][0].replace("Img2Img", "")
    pipe = opened()
    assert pipe.image_sizes == ((16, 24), (24, 16))
    given = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS}
    for height, width in pipe.image_sizes:
        size = {"height": height, "width": width}
        images = pipe(PROMPT, output_type="np", **size, **given).images
        assert images.shape == (N, height, width, 3)
        wanted = expected(kind, model, pipe, "np", **size)
        assert wanted.std() > 0.01 and np.abs(images - wanted).max() <= 2 / 255
    exact, decode = expected(kind, model, pipe, "latent", **size), pipe.decode
    pipe.decode = None
    latents = as_theirs(pipe.sample(PROMPT, height=24, **given), name).numpy()
    assert np.linalg.norm(latents - exact) <= 1e-3 * np.linalg.norm(exact)
    pipe.decode = decode
    with pytest.raises(BadRequest, match=r"not built for 16 x 16.*height 16 and width 24, or of h"):
        pipe(PROMPT, height=16, width=16)


def test_an_image_says_the_size(sized):
    """Image-to-image at the size that is not the usual one."""
    pipe = sized[2]()
    ours = {"image": picture((24, 16)), "mask_image": half_mask((24, 16)), "strength": 0.5}
    how = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS}
    images = pipe(PROMPT, output_type="np", **ours, **how).images
    theirs = {k: [v] * N if k in ("image", "mask_image") else v for k, v in ours.items()}
    size = {"height": 24, "width": 16}
    wanted = expected(PIPELINES[sized[0]][1], sized[1], pipe, "np", **theirs, **size)
    assert images.shape == wanted.shape and np.abs(images - wanted).max() <= 2 / 255
    with pytest.raises(BadRequest, match=r"not built for the image's 16 x 16"):
        pipe(PROMPT, image=picture((16, 16)))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory) -> tuple[str, Path, Path]:
    """The same of a U-Net of nine channels, which takes mask and masked image."""
    place = tmp_path_factory.mktemp("nine")
    tiny_text.save_inpainting(place / "model")
    tiny_prompts.build_engines(place / "model", place / "out", common_cache(tmp_path_factory))
    write_bundle(place / "out", place / "bundle", server="none", side="dense")
    return "nine", place / "model", place / "bundle"


@pytest.mark.slow
def test_a_denoiser_of_nine_channels_fills_in_as_diffusers_does(inpainting):
    size = open_bundle(inpainting[2]).image_size
    for strength in (0.5, 1.0):
        given = {"image": picture(size), "mask_image": half_mask(size), "strength": strength}
        both(inpainting, "StableDiffusionInpaintPipeline", given)
    pipe = open_bundle(inpainting[2])
    with pytest.raises(BadRequest, match="fills in a masked image: give image and mask_image"):
        pipe(PROMPT)


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory) -> tuple[str, Path, Path]:
    """The same of a VAE whose decoder takes image and mask."""
    place = tmp_path_factory.mktemp("asymmetric")
    tiny_text.save_sd(place / "model", tiny_autoencoders.inpainting)
    tiny_prompts.build_engines(place / "model", place / "out", common_cache(tmp_path_factory))
    write_bundle(place / "out", place / "bundle", server="none", side="dense")
    return "asymmetric", place / "model", place / "bundle"


@pytest.mark.slow
def test_a_decoder_that_takes_the_image_fills_in_as_diffusers_does(asymmetric):
    pipe = open_bundle(asymmetric[2])
    for strength in (0.5, 1.0):
        given = {"image": picture(pipe.image_size), "mask_image": half_mask(pipe.image_size)}
        given["strength"] = strength
        both(asymmetric, "StableDiffusionInpaintPipeline", given)
    filled = pipe(PROMPT, seed=SEED, output_type="np", **OPTIONS, **given).images
    pipe.decode_masked = None
    plain = pipe(PROMPT, seed=SEED, output_type="np", **OPTIONS, **given).images
    assert np.abs(filled - plain).max() > 0.02, "image and mask count"


@pytest.mark.slow
def test_a_decoder_that_takes_the_image_makes_others_without_one(asymmetric):
    """A prompt alone, and an image without a mask: as before, and as diffusers."""
    pipe = open_bundle(asymmetric[2])
    image = {"image": picture(pipe.image_size), "strength": 0.5}
    for kind, given in (
        ("StableDiffusionPipeline", {}),
        ("StableDiffusionImg2ImgPipeline", image),
    ):
        ours = {"num_images_per_prompt": N, "generator": SEED, **OPTIONS, **given}
        images = pipe(PROMPT, output_type="np", **ours).images
        theirs = {k: [v] * N if k == "image" else v for k, v in given.items()}
        wanted = expected(kind, asymmetric[1], pipe, "np", **theirs)
        assert wanted.std() > 0.01 and np.abs(images - wanted).max() <= 2 / 255


@pytest.mark.slow
def test_torch_decodes_with_image_and_mask_as_the_engine_does(asymmetric):
    _, model, bundle = asymmetric
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((3, 4, 8, 8)).astype(np.float32)
    images = rng.uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    masks = (rng.uniform(size=(3, 1, 64, 64)) > 0.5).astype(np.float32)
    by_engine = masked_decoder_of(bundle / "masked-decoder")
    by_torch = masked_decoder(find_source(model))
    assert by_engine is not None
    given = latents, images, masks
    np.testing.assert_allclose(by_engine(*given), by_torch(*given), atol=1e-4, rtol=1e-4)
    nothing = np.zeros_like(images), np.ones_like(masks)
    decode = decoder_of(open_engine(bundle / "decoder"))
    np.testing.assert_allclose(by_engine(latents, *nothing), decode(latents), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "save", [tiny_text.save_inpainting, tiny_text.save_sd], ids=["nine", "four"]
)
def test_a_compiled_folder_fills_in_by_its_engine_as_by_torch(
    save, tmp_path, tmp_path_factory, monkeypatch
):
    """The whole chain; a U-Net of nine channels is calibrated and trained with masks."""
    monkeypatch.setenv("DIFFC_CACHE", str(common_cache(tmp_path_factory)))
    (tmp_path / "prompts.txt").write_text("a red cat\na blue house\n")
    prompts = {**QUICK["data"], "prompts": str(tmp_path / "prompts.txt")}
    out, options = tmp_path / "out", {**QUICK, "data": prompts, "build": {"batch": (1, 2)}}
    options["measure"] = {**QUICK["measure"], "explain": "off"}
    report = diffc.compile(
        save(tmp_path / "model"), ratio=0.3, out=out, target="ort-cpu", options=options
    )
    assert report.vae_encoder is not None and report.vae_encoder.engines[0].error < 1e-3
    assert report.targets[0].compressed.parity.passed
    engine, by_torch = (diffc.pipeline(out, target=name) for name in ("ort-cpu", "torch"))
    given = {"image": picture(engine.image_size), "mask_image": half_mask(engine.image_size)}
    images = [
        pipe(PROMPT, strength=0.6, seed=SEED, output_type="np", **OPTIONS, **given).images
        for pipe in (engine, by_torch)
    ]
    assert np.abs(images[0] - images[1]).max() <= 2 / 255
    given["image"].save(tmp_path / "in.png")
    given["mask_image"].save(tmp_path / "mask.png")
    write_bundle(out, tmp_path / "bundle", server="none")
    words = ["--image", tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--strength", "0.6"]
    words += ["--steps", "6", "--guidance", "3", "--seed", SEED, "--out"]
    run = diffc_in_process("generate", out, PROMPT, *words, tmp_path / "a.png")
    assert run.returncode == 0, run.stderr
    alone = tmp_path / "bundle", "generate", PROMPT, *words, tmp_path / "b.png"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, alone)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    first, second = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    np.testing.assert_array_equal(first, second)
    wanted = np.round(images[0][0] * 255).astype(np.uint8)
    assert np.abs(first.astype(int) - wanted).max() <= 1
