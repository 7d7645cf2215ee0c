"""Calls that nobody should write: each is refused in one line that names the argument."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from PIL import Image

from diffc_runtime import BadRequest, Pipeline, open_bundle
from diffc_runtime.arguments import named_values
from diffc_runtime.bundles import pipeline_of
from diffc_runtime.engines import open_engine
from diffc_runtime.errors import value_words
from diffc_runtime.prompt_plan import GuidanceInput
from diffc_runtime.prompts import guidance_value
from diffc_runtime.values import Input

SHAPE = (1, 8, 8)
CONFIG = {"_class_name": "DDIMScheduler"}
PLAIN = (
    Input("sample", SHAPE, kind="sample"),
    Input("timestep", (), "int64", "timestep"),
)
LABEL = Input("class_labels", (), "int64", values=4)
BIG = np.zeros((50, 50))
TWO = np.array([1, 2])


def pipe(**more) -> Pipeline:
    def denoise(inputs):
        return inputs["sample"] * 0.5 + inputs["class_labels"].reshape(-1, 1, 1, 1) / 10

    return Pipeline(denoise, CONFIG, SHAPE, inputs=(*PLAIN, LABEL), **more)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_inference_steps": BIG}, "steps must be a whole number"),
        ({"n": BIG}, "number of images, must be"),
        ({"n": np.bool_(True)}, "number of images, must be"),
        ({"seed": True}, "seed must be a whole number, not a bool"),
        ({"generator": True}, "seed must be a whole number, not a bool"),
        ({"seed": 1, "generator": True}, "seed must be a whole number, not a bool"),
        ({"seed": True, "generator": 1}, "seed must be a whole number, not a bool"),
        ({"seed": 0, "generator": False}, "seed must be a whole number, not a bool"),
        ({"seed": 1.0, "generator": 1}, "seed must be a whole number, not a float"),
        ({"num_images_per_prompt": 1, "n": True}, "number of images, must be"),
        ({"num_images_per_prompt": 1.0, "n": 1}, "number of images, must be"),
        ({"seed": TWO, "generator": TWO}, "generator and seed mean the same"),
        ({"height": TWO}, "height must be a whole number of pixels"),
        ({"width": BIG}, "width must be a whole number of pixels"),
        ({"height": 8.0}, "height must be a whole number of pixels, not 8.0"),
        ({"guidance_scale": TWO}, "guidance must be 0 to 100"),
        ({"guidance_scale": True}, "guidance must be 0 to 100, not True"),
        ({"guidance_scale": 10**400}, "guidance must be 0 to 100, not 1000"),
        ({"scheduler": ""}, "unknown scheduler ''"),
        ({"scheduler": 0}, "unknown scheduler 0"),
        ({"scheduler": ["ddim"]}, r"unknown scheduler \['ddim'\]"),
        ({"scheduler": {}}, "unknown scheduler {}"),
        ({"scheduler": BIG}, r"unknown scheduler array\("),
        ({"output_type": BIG}, "output_type must be one of pil, np"),
        ({"output_type": ["np"]}, "output_type must be one of pil, np"),
        ({"class_labels": -1}, "'class_labels' must be from 0 to 3, not -1"),
        ({"class_labels": [0, 4]}, "'class_labels' must be from 0 to 3, not 4"),
        ({"class_labels": np.uint64(2**63 + 1)}, "'class_labels' must be from 0 to 3"),
        ({"unconditional_class_labels": 9, "guidance_scale": 2}, "must be from 0 to 3, not 9"),
        ({"unconditional_colour": 9}, "unknown condition 'unconditional_colour'"),
        ({"prompt": BIG}, "prompt is a text or a list of texts"),
        ({"prompt": b"x" * 10_000}, "prompt is a text or a list of texts"),
        ({"lora": BIG}, "unknown LoRA array"),
        ({"lora": "a" * 10_000}, "unknown LoRA 'aaa"),
        ({"image": np.zeros((8, 8)), "strength": BIG}, "strength must be a number above 0"),
    ],
)  # fmt: skip
def test_each_is_one_short_line(given, says):
    with pytest.raises(BadRequest, match=says) as caught:
        pipe()(**{"class_labels": 1, "num_inference_steps": 1, **given})
    words = str(caught.value)
    assert "\n" not in words and len(words) < 300, words


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("steps", "did you mean num_inference_steps?"),
        ("guidance", "did you mean guidance_scale?"),
        ("num_inference_step", "did you mean num_inference_steps"),
        ("class_label", "did you mean class_labels?"),
        ("latents", "a call takes prompt, negative_prompt, num_inference_steps"),
    ],
)
def test_an_unknown_argument_has_those_that_are_known(name, hint):
    with pytest.raises(BadRequest, match=f"unknown condition '{name}'") as caught:
        pipe()(class_labels=1, **{name: 3})
    assert caught.value.hint.startswith(hint)


def test_guidance_without_a_value_for_none_says_what_to_give():
    with pytest.raises(BadRequest, match="unconditional value") as caught:
        pipe()(class_labels=1, guidance_scale=2)
    assert caught.value.hint == "give unconditional_class_labels, or a guidance of 1"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04, and no archive", b"no array"])
def test_a_file_that_is_no_array_is_one_line(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(BadRequest, match=r"condition 'x': cannot read .*x\.npy: ") as caught:
        named_values([f"x={tmp_path / 'x.npy'}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["n", "seed", "height", "strength", "num_inference_steps"])
def test_an_argument_is_no_condition_of_a_command_line(name):
    """It would be given twice, which is Python's own TypeError."""
    with pytest.raises(BadRequest, match=f"'{name}' is no condition of a model"):
        named_values([f"{name}=3"])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_numbers_of_numpy_are_pythons_own(kind):
    """Small ones would overflow in the schedule's arithmetic."""
    options = {"class_labels": 1, "output_type": "np"}
    ours = pipe()(n=kind(2), seed=kind(3), num_inference_steps=kind(4), **options).images
    wanted = pipe()(n=2, seed=3, num_inference_steps=4, **options).images
    np.testing.assert_array_equal(ours, wanted)


def test_labels_of_the_settings_are_checked_too():
    settings = {"scheduler": CONFIG, "values": {"class_labels": 3}}
    inputs = [
        {"name": one.name, "shape": list(one.shape), "dtype": one.dtype, "kind": one.kind}
        for one in (*PLAIN, LABEL)
    ]
    info = {"inputs": inputs, "profiles": [], "target": "ort-cpu", "precision_found": "fp32"}
    opened = pipeline_of(settings, info, pipe().denoise)
    with pytest.raises(BadRequest, match="must be from 0 to 2, not 3"):
        opened(class_labels=3)


def test_a_tensor_with_gradients_or_of_bf16_is_what_it_holds():
    torch = pytest.importorskip("torch")
    options = {"num_inference_steps": 1, "output_type": "np"}
    wanted = pipe()(class_labels=[1, 2], **options).images
    labels = torch.tensor([1, 2])
    np.testing.assert_array_equal(pipe()(class_labels=labels, **options).images, wanted)
    picture = torch.full((8, 8, 1), 0.5, requires_grad=True)
    options |= {"class_labels": 1, "num_inference_steps": 4}
    begun = pipe()(image=np.full((8, 8, 1), 0.5), **options).images
    for image in (picture, picture.to(torch.bfloat16)):
        np.testing.assert_array_equal(pipe()(image=image, **options).images, begun)
    with pytest.raises(BadRequest, match="image is a Tensor: give a Pillow image"):
        pipe()(image=torch.zeros(8, 8, 1, device="meta"), **options)


def damaged(tmp_path) -> Image.Image:
    path = tmp_path / "a.png"
    Image.effect_noise((8, 8), 50).save(path)
    path.write_bytes(path.read_bytes()[:70])
    return Image.open(path)


def closed(tmp_path) -> Image.Image:
    image = Image.new("L", (8, 8))
    image.close()
    return image


def other_colours(tmp_path) -> Image.Image:
    return Image.new("LAB", (8, 8))


@pytest.mark.parametrize("make", [damaged, closed, other_colours])
@pytest.mark.parametrize("name", ["image", "mask_image"])
def test_a_picture_that_cannot_be_read_is_named(make, name, tmp_path):
    given = {"image": np.zeros((8, 8)), name: make(tmp_path)}
    with pytest.raises(BadRequest, match=f"^{name} cannot be read: "):
        pipe()(class_labels=1, **given)


def test_rows_of_different_lengths_are_no_image():
    with pytest.raises(BadRequest, match="image is a list: give a Pillow image"):
        pipe()(class_labels=1, image=[[[1.0, 2.0], [1.0]]])


def test_the_guidance_that_an_input_takes_is_checked_as_any():
    """FLUX has an input for it, and no arithmetic of ours that would notice a text or NaN."""
    from types import SimpleNamespace

    plan = SimpleNamespace(guidance=GuidanceInput("guidance"), conditions={})
    prompts = SimpleNamespace(plan=plan, fixed={}, encode=lambda texts: {})
    inputs = (*PLAIN, Input("guidance", ()))
    taken = Pipeline(lambda i: i["sample"], CONFIG, SHAPE, inputs=inputs, prompts=prompts)
    assert taken("a cat", guidance_scale=3.5).images
    assert guidance_value(plan.guidance, 3.5) == 3.5 * plan.guidance.factor
    for wrong in ("5", float("nan"), 1e9, TWO):
        with pytest.raises(BadRequest, match="guidance must be 0 to 100"):
            taken("a cat", guidance_scale=wrong)


def test_a_copy_shares_the_engine_and_a_pickle_is_refused():
    own = pipe()
    options = {"class_labels": 2, "output_type": "np", "num_inference_steps": 2}
    for other in (copy.copy(own), copy.deepcopy(own)):
        assert other.denoise is own.denoise and other is not own
        np.testing.assert_array_equal(other(**options).images, own(**options).images)
    with pytest.raises(BadRequest, match="a pipeline cannot be pickled") as caught:
        pickle.dumps(own)
    assert "other process" in caught.value.hint


@pytest.mark.parametrize("folder", [None, 3, b"bundle", ["bundle"]])
def test_what_is_no_path_is_no_bundle(folder):
    with pytest.raises(BadRequest, match="a bundle's folder is a path, not "):
        open_bundle(folder)


@pytest.mark.parametrize("threads", ["2", 1.5, float("nan"), True, [1], 10**9])
def test_threads_that_no_runtime_can_start_are_refused(threads, tmp_path):
    with pytest.raises(BadRequest, match="threads must be 1 or more, up to 1024, not "):
        open_engine(tmp_path, threads)


def test_a_home_folder_that_nobody_knows_is_one_line():
    with pytest.raises(BadRequest, match="'~nobody-of-this-name/bundle' begins with a home folder"):
        open_bundle("~nobody-of-this-name/bundle")


def test_values_are_shown_in_one_short_line():
    assert value_words("ab") == "'ab'" and value_words("it's") == "'it's'"
    assert value_words("a\nb") == r"'a\nb'" and value_words(None) == "None"
    for long in (BIG, "x" * 1000, list(range(1000))):
        assert len(value_words(long)) <= 80 and "\n" not in value_words(long)
