"""A pipeline as a call: what it gives, what it has where nothing is said, what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from diffc_runtime.errors import BadRequest
from diffc_runtime.noise import image_noise
from diffc_runtime.pipeline import Input, Pipeline, PipelineDefaults
from diffc_runtime.saving import check_files, output_files, save_samples, write_picture

CONFIG = {"_class_name": "DDIMScheduler", "prediction_type": "sample", "num_train_timesteps": 30}


def labelled(**more) -> Pipeline:
    """Its images are label / 10 everywhere; of "none", label 9."""
    inputs = [
        Input("sample", (1, 4, 4), kind="sample"),
        Input("timestep", (), "int64", "timestep"),
        Input("class_labels", (), "int64"),
        Input("size", (2,)),
    ]

    def denoise(arrays):
        value = arrays["class_labels"] / 10 + arrays["size"].sum(1)
        return np.broadcast_to(value[:, None, None, None], arrays["sample"].shape)

    return Pipeline(denoise, CONFIG, (1, 4, 4), inputs=inputs, **more)


def test_latents_without_a_decoder_are_no_pictures():
    pipe = Pipeline(lambda arrays: arrays["sample"], CONFIG, (4, 8, 8))
    with pytest.raises(BadRequest, match=r"of shape \(4, 8, 8\) are no pictures.*decoder \(VAE\)"):
        pipe()
    assert pipe(output_type="np", num_inference_steps=2).images.shape == (1, 4, 8, 8)
    decoded = Pipeline(
        lambda arrays: arrays["sample"], CONFIG, (4, 8, 8), decode=lambda x: x[:, :3]
    )
    assert decoded(n=2, num_inference_steps=2).images[1].size == (8, 8)
    assert decoded().images[0].mode == "RGB"


def test_defaults_complete_a_call_and_never_exceed_the_training_steps():
    def usual(seed: int, n: int):
        return {"class_labels": np.arange(n) + seed, "size": np.zeros(2)}

    pipe = labelled(defaults=PipelineDefaults(steps=50, guidance=1.0, conditions=usual))
    assert pipe.defaults.steps == 30
    images = pipe(n=3, seed=2, output_type="np").images
    np.testing.assert_allclose(images[:, 0, 0, 0], (np.array([0.2, 0.3, 0.4]) + 1) / 2, atol=1e-6)
    given = pipe(class_labels=[7, 1], output_type="np").images
    np.testing.assert_allclose(given[:, 0, 0, 0], (np.array([0.7, 0.1]) + 1) / 2, atol=1e-6)


def test_the_usual_conditions_are_asked_for_where_a_call_leaves_one_open():
    """They may lie in a file that is not there any more."""
    counts = []

    def usual(seed: int, n: int):
        counts.append(n)
        return {"class_labels": np.zeros(n, np.int64), "size": np.zeros(2)}

    pipe = labelled(defaults=PipelineDefaults(1, conditions=usual))
    pipe.sample(class_labels=[3, 4], size=[0.1, 0.2])
    assert not counts
    pipe.sample(class_labels=[3, 4])
    assert counts == [2]


def test_usual_conditions_that_say_the_size_are_those_of_the_calls():
    seen = []
    inputs = [
        Input("sample", (1, 4, 4), kind="sample", sizes=((4, 4), (8, 4))),
        Input("timestep", (), "int64", "timestep"),
        Input("time_ids", (6,)),
    ]

    def denoise(arrays):
        seen.append(arrays["time_ids"][0].tolist())
        return arrays["sample"]

    crops = np.array([[4.0, 4, 1, 2, 4, 4]])
    usual = PipelineDefaults(1, conditions=lambda seed, n: {"time_ids": np.repeat(crops, n, 0)})
    pipe = Pipeline(denoise, CONFIG, (1, 4, 4), inputs=inputs, defaults=usual)
    for size in ({}, {"height": 4}, {"height": 8}, {"image": np.zeros((8, 4, 1)), "strength": 1}):
        pipe.sample(**size)
    assert seen == [[4, 4, 1, 2, 4, 4]] * 2 + [[8, 4, 1, 2, 8, 4]] * 2
    assert crops[0].tolist() == [4, 4, 1, 2, 4, 4], "the usual ones stay what they are"


def test_guidance_leads_away_from_none_and_leaves_what_has_no_none():
    """u + w (c - u), by hand: labels .2 and .1, the size's .05 on both sides."""
    pipe = labelled(unconditional={"class_labels": 1})
    size = np.array([0.05, 0.0], np.float32)
    image = pipe(class_labels=2, size=size, guidance_scale=3.0, output_type="np").images
    np.testing.assert_allclose(image, (0.15 + 3 * (0.25 - 0.15) + 1) / 2, atol=1e-6)
    other = pipe(
        class_labels=2, size=size, unconditional_class_labels=0, guidance_scale=3.0,
        output_type="np",
    ).images  # fmt: skip
    np.testing.assert_allclose(other, (0.05 + 3 * (0.25 - 0.05) + 1) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"class_labels": [[1, 2], [3]]}, "'class_labels' is not an array of real numbers"),
        ({"class_labels": 1, "size": [0.0, np.nan]}, "'size' has values that are not finite"),
        ({"class_labels": 1, "size": [0.0, 1e39]}, "'size' has values .* finite in float32"),
        ({"class_labels": [1, 2], "n": 3}, r"'class_labels' must have shape \(3,\) or \(\)"),
        ({"class_labels": 1, "n": True}, "number of images, must be a whole number"),
        ({"class_labels": 1, "seed": 0.5}, "seed must be a whole number"),
        ({"class_labels": 1, "sizes": 1}, "unknown condition 'sizes'"),
        ({"class_labels": 1, "guidance_scale": float("nan")}, "guidance must be 0 to 100"),
        ({}, "the condition 'class_labels' is missing"),
        ({"class_labels": 1, "guidance_scale": 2.0}, "unconditional value of condition"),
    ],
)
def test_a_wrong_call_is_one_line(given, says):
    with pytest.raises(BadRequest, match=says) as caught:
        labelled()(**{"size": np.zeros(2, np.float32), **given})
    assert "\n" not in str(caught.value)


def test_noise_is_named_by_seed_and_index():
    many = image_noise(3, 0, 5, (2, 3))
    np.testing.assert_array_equal(image_noise(3, 4, 1, (2, 3))[0], many[4])
    assert np.abs(image_noise(4, 0, 1, (2, 3)) - many[:1]).max() > 0
    assert abs(image_noise(0, 0, 50, (20, 20)).std() - 1) < 0.02
    # of numpy 2.4; an image that a seed named once is named by it for good (docs/images.md, Seeds)
    first = [-0.48364636, -2.0180931, 0.66250885, 1.9113272]
    np.testing.assert_allclose(image_noise(7, 2, 1, (1, 2, 2)).ravel(), first, rtol=1e-6)


def test_files_are_numbered_and_arrays_are_one(tmp_path):
    names = [path.name for path in output_files(tmp_path / "a.b.png", 2)]
    assert names == ["a.b-0.png", "a.b-1.png"]
    assert output_files(tmp_path / "a.npy", 2) == [tmp_path / "a.npy"]
    assert output_files(tmp_path / "a.PNG", 1) == [tmp_path / "a.PNG"]
    with pytest.raises(BadRequest, match="--out must end in"):
        output_files(tmp_path / "a", 1)
    for count in (0, 10**9):  # so many names alone would fill the memory
        with pytest.raises(BadRequest, match=f"from 1 to 1024, not {count}"):
            output_files(tmp_path / "a.png", count)
    for name in ("a.npy", "b.NPY"):
        files = output_files(tmp_path / name, 2)
        check_files(files)
        save_samples(np.zeros((2, 1, 2, 2), np.float32), files)
        assert np.load(tmp_path / name).shape == (2, 1, 2, 2)


def test_a_format_that_cannot_be_written_is_refused_before_there_are_images(tmp_path, monkeypatch):
    check_files([tmp_path / "a.JPG"])
    monkeypatch.delitem(Image.SAVE, "WEBP")
    with pytest.raises(BadRequest, match=r"Pillow that is here writes no \.webp files"):
        check_files([tmp_path / "a.webp"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BadRequest, match=r"\.jpg files need Pillow"):
        check_files([tmp_path / "a.jpg"])
    check_files([tmp_path / "a.png"])
    check_files([tmp_path / "a.npy"])


def test_a_grid_that_is_too_large_for_its_format_is_one_line(tmp_path):
    wide = np.zeros((1, 16384, 3), np.uint8)  # WebP takes 16383 pixels
    with pytest.raises(BadRequest, match=r"a\.webp: Pillow takes no 16384x1 pixels.*\.png has no"):
        write_picture(tmp_path / "a.webp", wide)
    write_picture(tmp_path / "a.png", wide)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
