"""Images and masks of a call: pixels, batches, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffc_runtime.errors import BadRequest
from diffc_runtime.image_conditions import EDITED_IMAGE, MASK, MASKED_IMAGE
from diffc_runtime.image_inputs import image_arguments
from diffc_runtime.pipeline import Input, Pipeline, PipelineDefaults
from diffc_runtime.schedulers import scheduler

CONFIG = {"_class_name": "DDIMScheduler", "clip_sample": False}
MODEL = (Input("sample", (2, 4, 4), kind="sample"), Input("timestep", (), "float32", "timestep"))


def denoise(inputs):
    assert len({len(array) for array in inputs.values()}) == 1
    more = sum(v.mean((1, 2, 3)) for k, v in inputs.items() if k not in ("sample", "timestep"))
    shift = np.float32(inputs["timestep"] / 1000 + 0.1 * more)
    return np.tanh(inputs["sample"] * 0.7 + shift[:, None, None, None]).astype(np.float32)


def encode(images):
    """Of 8x8 pixels to 4x4 latents: the means of two channels, with a deviation of 0.1."""
    mean = images.reshape(len(images), 3, 4, 2, 4, 2).mean((3, 5))[:, :2]
    return mean, np.full_like(mean, 0.1)


def decode(latents):
    large = latents.repeat(2, axis=2).repeat(2, axis=3)
    return np.concatenate([large, large[:, :1]], axis=1)


def latent(*conditions: Input, **more) -> Pipeline:
    return Pipeline(
        denoise, CONFIG, (2, 4, 4), inputs=(*MODEL, *conditions), decode=decode, encode=encode,
        image_size=(8, 8), latent_scale=2.0, latent_shift=0.5, **more,
    )  # fmt: skip


def pixels(size=(8, 8), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_a_model_of_pixels_begins_with_the_picture_itself() -> None:
    pipe = Pipeline(denoise, CONFIG, (3, 8, 8))
    image = pixels()
    samples = pipe.sample(image=image, strength=0.5, num_inference_steps=4, seed=3)
    noise = np.random.Generator(np.random.Philox(key=3, counter=[0, 0, 0, 0]))
    eps = noise.standard_normal((1, 3, 8, 8), dtype=np.float32)
    clean = image.transpose(2, 0, 1)[None].astype(np.float32) / 255 * 2 - 1
    sampler = scheduler("ddim", CONFIG, 4).from_step(2)
    x = sampler.add_noise(clean, eps, 0)
    for i, t in enumerate(sampler.timesteps):
        given = {"sample": x, "timestep": np.full(1, t, np.float32)}
        x = sampler.step(denoise(given), i, x)
    np.testing.assert_allclose(samples, x, atol=1e-6)
    grey = Pipeline(denoise, CONFIG, (1, 8, 8))
    one, other = (
        grey.sample(image=picture, strength=0.5, num_inference_steps=4)
        for picture in (Image.fromarray(image), Image.fromarray(image).convert("L"))
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mask", [None, np.tri(8, dtype=np.uint8) * 255])
def test_an_image_is_the_same_alone_and_among_others(mask) -> None:
    how = {"num_inference_steps": 3, "strength": 0.7, "seed": 2, "mask_image": mask}
    images = [pixels(seed=i) for i in range(5)]
    whole = latent().sample(image=images, **how)
    parts = latent(batches=[(1, 2)]).sample(image=np.stack(images), **how)
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    first = latent().sample(image=Image.fromarray(images[0]), **how)
    np.testing.assert_allclose(whole[:1], first, atol=1e-6)
    same = latent().sample(image=images[0], n=2, **how)
    assert np.abs(same[0] - same[1]).max() > 1e-3, "each has its own noise"


def test_a_list_may_have_arrays_of_one_image_and_of_several() -> None:
    one, several, how = pixels(seed=1), pixels((2, 8, 8)), {"num_inference_steps": 2, "seed": 4}
    samples = latent().sample(image=[several, one], **how)
    np.testing.assert_array_equal(samples, latent().sample(image=[*several, one], **how))


def test_one_image_may_have_several_masks() -> None:
    masks = [np.tri(8, dtype=np.uint8) * 255, np.eye(8, dtype=np.uint8) * 255]
    how = {"image": pixels(), "num_inference_steps": 2, "seed": 4}
    both = latent().sample(mask_image=masks, **how)
    assert len(both) == 2
    np.testing.assert_allclose(both[:1], latent().sample(mask_image=masks[0], **how), atol=1e-6)


def test_where_the_mask_is_black_the_image_stays() -> None:
    mask = np.zeros((8, 8), np.float32)
    mask[:, 4:] = 1
    pipe, image = latent(), pixels()
    pipe.decode = None
    kept = pipe.sample(image=image, mask_image=mask, num_inference_steps=3)
    other = pipe.sample(image=pixels(seed=9), mask_image=mask, num_inference_steps=3)
    mean = (encode(image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)[0] - 0.5) * 2
    assert np.abs(kept - mean)[..., :2].max() < 1.0  # five deviations, in the denoiser's scale
    assert np.abs(other - kept)[..., :2].max() > 0.1
    np.testing.assert_allclose(other[..., 2:], kept[..., 2:])  # from noise alone, row by row


def test_a_denoiser_that_fills_in_gets_mask_and_masked_image() -> None:
    seen = {}

    def spy(inputs):
        seen.update({name: value.copy() for name, value in inputs.items()})
        return denoise(inputs)

    pipe = latent(Input(MASK, (1, 4, 4)), Input(MASKED_IMAGE, (2, 4, 4)))
    pipe.denoise, image = spy, pixels()
    mask = np.kron(np.eye(4, dtype=np.uint8), np.ones((2, 2), np.uint8)) * 255
    pipe.sample(image=image, mask_image=Image.fromarray(mask), num_inference_steps=2)
    np.testing.assert_array_equal(seen[MASK][0, 0], np.eye(4))
    masked = (image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1) * (mask < 128)
    expected = (encode(masked)[0] - 0.5) * 2
    assert np.abs(seen[MASKED_IMAGE] - expected).max() < 1.0
    with pytest.raises(BadRequest, match="fills in a masked image: give image and mask_image"):
        pipe.sample(num_inference_steps=2)
    with pytest.raises(BadRequest, match="give mask_image beside image"):
        pipe.sample(image=image)


def test_beside_a_calls_image_lies_none_of_the_pipelines_own() -> None:
    """Not even on the side that guidance leads away from."""
    usual = {
        MASK: np.ones((1, 4, 4)),
        MASKED_IMAGE: np.ones((2, 4, 4)),
        "style": np.ones((1, 1, 1)),
    }
    conditions, seen = (Input(name, value.shape) for name, value in usual.items()), {}
    pipe = latent(
        *conditions, unconditional={"style": np.zeros((1, 1, 1))},
        defaults=PipelineDefaults(1, 3.0, conditions=lambda seed, n: usual),
    )  # fmt: skip
    pipe.denoise = lambda inputs: denoise(seen.setdefault("inputs", inputs))
    pipe.sample(image=pixels(), mask_image=np.zeros((8, 8)))
    for name in (MASK, MASKED_IMAGE):
        with_style, without = seen["inputs"][name]
        np.testing.assert_array_equal(with_style, without)
    assert seen["inputs"]["style"].ravel().tolist() == [1, 0]
    assert not seen["inputs"][MASK].any()


def test_a_denoiser_that_edits_gets_the_image() -> None:
    pipe = latent(Input(EDITED_IMAGE, (2, 4, 4)))
    one, other = (pipe.sample(image=pixels(seed=i), num_inference_steps=2) for i in range(2))
    assert np.abs(one - other).max() > 1e-4
    with pytest.raises(BadRequest, match="edits an image: give image"):
        pipe.sample(num_inference_steps=2)


@pytest.mark.parametrize("steps", [3, 7, 30, 50, 333])
def test_the_strength_that_is_advised_is_one_step(steps: int) -> None:
    """It was rounded to two digits, down as well as up: the same error answered it."""
    pipe = Pipeline(denoise, CONFIG, (3, 8, 8))
    how = {"image": pixels(), "num_inference_steps": steps}
    with pytest.raises(BadRequest, match="less than one step") as refused:
        pipe.sample(strength=1e-4, **how)
    advised = float(str(refused.value).split("take a strength of ")[1].split()[0])
    assert advised < 1 / steps + 2e-3
    pipe.sample(strength=advised, **how)


def test_several_pictures_are_made_of_one_image_to_edit() -> None:
    pipe, how = latent(Input(EDITED_IMAGE, (2, 4, 4))), {"num_inference_steps": 2, "seed": 3}
    several = pipe.sample(image=pixels(), n=3, **how)
    each = pipe.sample(image=[pixels()] * 3, **how)
    assert len(several) == 3
    np.testing.assert_allclose(several, each, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask_image": pixels()}, "mask_image needs an image beside it"),
        ({"strength": 0.5}, "strength needs an image beside it"),
        ({"image": pixels(), "strength": 0}, "above 0, up to 1, not 0"),
        ({"image": pixels(), "strength": 1.5}, "above 0, up to 1, not 1.5"),
        ({"image": pixels(), "strength": 0.2, "num_inference_steps": 4}, "less than one step"),
        ({"image": pixels(), "mask_image": pixels((4, 8))}, "mask_image is 4x8 and image is 8x8"),
        (
            {"image": pixels((8, 6))},
            r"not built for the image's 8 x 6: it makes images of height 8 and width 8",
        ),
        ({"image": "in.png"}, "image is a str: give a Pillow image"),
        ({"image": []}, "empty list"),
        ({"image": [pixels(), pixels((4, 4))]}, "one size"),
        ({"image": [pixels()[None], pixels((8, 4))[None]]}, "one size"),
        ({"image": pixels().astype(np.float32)}, "floats are in"),
        (
            {"image": pixels().astype(np.int64)},
            "image is an array of int64: give a Pillow image, or an array",
        ),
        ({"image": np.full((8, 8, 3), np.nan)}, "image has values that are not numbers"),
        ({"image": np.ones((8, 8), bool)}, "an array of bool: give a Pillow image"),
        ({"image": pixels(), "mask_image": []}, "mask_image is an empty list"),
        ({"image": Image.new("F", (8, 8), 7)}, "values from 7 to 7: floats are in"),
        ({"image": np.zeros((8, 8, 7))}, r"\(height, width, channels\) is needed"),
        ({"image": np.zeros((2, 8, 8, 3)), "n": 3}, "has 2 images, and 3 are made"),
    ],
)
def test_what_is_no_image_is_refused(given, words) -> None:
    with pytest.raises(BadRequest, match=words):
        latent().sample(**{"num_inference_steps": 2, **given})


def test_without_an_encoder_an_image_is_refused() -> None:
    pipe = latent()
    pipe.encode = None
    with pytest.raises(BadRequest, match=r"there is no VAE encoder here.*command that made it"):
        pipe.sample(image=pixels(), num_inference_steps=2)


def test_files_of_a_command_line(tmp_path) -> None:
    path = tmp_path / "in.png"
    Image.fromarray(pixels()).save(path)
    given = image_arguments(path, None, 0.4)
    np.testing.assert_array_equal(np.asarray(given["image"]), pixels())
    assert given["strength"] == 0.4 and image_arguments(None, None, None) == {}
    with pytest.raises(BadRequest, match="--mask needs an --image"):
        image_arguments(None, path, None)
    (tmp_path / "no.png").write_text("no image")
    for name in ("no.png", "missing.png"):
        with pytest.raises(BadRequest, match="cannot read the image"):
            image_arguments(tmp_path / name, None, None)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_16_bits_is_the_same_as_one_of_8(mode, tmp_path) -> None:
    """Pillow's own conversion makes a white picture of one, and a black one of floats."""
    grey = pixels()[..., 0]
    grey[0, 0] = 255  # values above 255 tell 16 bits from 8 in the mode I
    wide = {
        "I;16": grey.astype(np.uint16) * 257,
        "I": grey.astype(np.int32) * 257,
        "F": grey.astype(np.float32) / 255,
    }[mode]
    picture = Image.fromarray(wide)
    assert picture.mode == mode
    how = {"num_inference_steps": 2, "strength": 0.5}
    expected = latent().sample(image=grey, mask_image=grey, **how)
    given = [(picture, picture)]
    if mode == "I;16":
        picture.save(tmp_path / "wide.png")
        opened = image_arguments(tmp_path / "wide.png", tmp_path / "wide.png", None)
        given.append((opened["image"], opened["mask_image"]))
    for image, mask in given:
        samples = latent().sample(image=image, mask_image=mask, **how)
        np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_a_mask_may_be_of_bool() -> None:
    mask, how = np.eye(8, dtype=bool), {"image": pixels(), "num_inference_steps": 2}
    one, other = (latent().sample(mask_image=m, **how) for m in (mask, mask * np.uint8(255)))
    np.testing.assert_array_equal(one, other)


def test_numbers_that_a_call_gives_are_not_laid_to_the_engine() -> None:
    pipe = latent(Input("style", (2, 4, 4)))
    style = np.full((2, 4, 4), np.nan, np.float32)
    with pytest.raises(BadRequest, match="condition 'style' has values that are not finite"):
        pipe.sample(style=style, num_inference_steps=2)
    with pytest.raises(BadRequest, match="unconditional value of condition 'style' has"):
        pipe.sample(
            style=np.zeros_like(style), unconditional_style=style, guidance_scale=2,
            num_inference_steps=2,
        )  # fmt: skip
