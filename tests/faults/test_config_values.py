"""A config whose values have the wrong kind is refused in one line that names the key."""

from __future__ import annotations

import json

import pytest
from support.family_cases import CASES
from support.pipelines import edit_json, save_ddpm, save_sd
from support.runs import refusal

from diffc.errors import InputError
from diffc.models.config_values import reading_config, strange_values
from diffc.models.families import family
from diffc.models.source import find_source
from diffc.prune.planning import cost_of


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    return save_ddpm(tmp_path_factory.mktemp("values") / "ddpm")


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("values") / "sd")


def edited(path, **changes):
    """The file's text as it was, to be put back."""
    before = path.read_text("utf-8")
    edit_json(path, **changes)
    return before


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("unet/config.json", "up_block_types", 3.5),
        ("unet/config.json", "in_channels", [3]),
        ("unet/config.json", "out_channels", ["x"]),
        ("unet/config.json", "block_out_channels", 5),
        ("unet/config.json", "sample_size", {"a": 1}),
        ("unet/config.json", "cross_attention_dim", [[1, 2], [3]]),
        ("vae/config.json", "scaling_factor", "x"),
        ("vae/config.json", "shift_factor", [1]),
        ("vae/config.json", "latents_mean", 3),
        ("vae/config.json", "block_out_channels", 8),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(sd, tmp_path, part, key, value):
    more = {"latents_std": [1.0] * 4} if key == "latents_mean" else {}
    before = edited(sd / part, **{key: value}, **more)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    try:
        error = refusal(sd, tmp_path / "out", data={"prompts": str(prompts)})
    finally:
        (sd / part).write_text(before, "utf-8")
    assert isinstance(error, InputError) and error.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_sample_range": "x"},
        {"thresholding": True, "sample_max_value": [3]},
        {"rescale_betas_zero_snr": True, "num_train_timesteps": 1},
        {"trained_betas": 5},
        {"beta_start": [1]},
    ],
)
def test_a_scheduler_is_tried_before_work(ddpm, tmp_path, changes):
    path = ddpm / "scheduler/scheduler_config.json"
    before = edited(path, **changes)
    try:
        error = refusal(ddpm, tmp_path / "out", reference_loop="ddim:1")
    finally:
        path.write_text(before, "utf-8")
    assert isinstance(error, InputError)
    assert not (tmp_path / "out").exists()


def test_plan_and_inspect_say_the_key(sd):
    before = edited(sd / "unet/config.json", up_block_types=3.5)
    try:
        with pytest.raises(InputError, match=r"UNet2DConditionModel.*up_block_types is '3.5'"):
            cost_of(find_source(sd, need_weights=False))
    finally:
        (sd / "unet/config.json").write_text(before, "utf-8")


def test_a_vae_of_other_latents_is_refused_before_work(sd, tmp_path):
    from support.tiny_text import vae

    other = json.loads((sd / "vae/config.json").read_text())
    held = {path: path.read_bytes() for path in (sd / "vae").iterdir()}
    type(vae()).from_config({**other, "latent_channels": 8}).save_pretrained(sd / "vae")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    try:
        error = refusal(sd, tmp_path / "out", data={"prompts": str(prompts)})
    finally:
        for path, content in held.items():
            path.write_bytes(content)
    assert "cannot decode the denoiser's samples (4, 8, 8)" in str(error)


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_value_of_a_real_config_is_strange(case):
    class_name, config, _ = CASES[case]
    whole = json.loads(json.dumps(family(class_name).full_config(config)))
    assert strange_values(class_name, {"_class_name": class_name, **whole}) == []


def test_a_refusal_inside_passes_as_it_is():
    with pytest.raises(InputError, match=r"^its own words$"), reading_config("UNet2DModel", {}):
        raise InputError("its own words")


def test_without_a_strange_value_the_reason_is_given():
    with (
        pytest.raises(InputError, match="cannot be read: float division by zero"),
        reading_config("UNet2DModel", {"sample_size": 8}),
    ):
        1.0 / 0.0  # noqa: B018
