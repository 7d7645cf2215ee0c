"""Recipes: precedence, errors that name the key, and the shipped files."""

from __future__ import annotations

import pytest
import yaml

from diffc.errors import InputError, RequestError, nearest
from diffc.models.shipped import is_shipped
from diffc.recipe import Recipe, recipe_files, resolve
from diffc.recipe.yaml_file import read_yaml


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_the_file_over_the_family(tmp_path):
    path = write(tmp_path, "prune: {ratio: 0.3, align: 8}\n")
    recipe = resolve(family="UNet2DModel", recipe=path, flags={"prune": {"ratio": 0.4}})
    assert (recipe.prune.ratio, recipe.prune.align) == (0.4, 8)
    assert recipe.prune.allocate == "auto"


def test_a_flag_that_was_not_given_changes_nothing(tmp_path):
    path = write(tmp_path, "prune: {ratio: 0.3}\n")
    flags = {"prune": {"ratio": None, "importance": {"method": None}}, "seed": None}
    assert resolve(family="UNet2DModel", recipe=path, flags=flags).prune.ratio == 0.3


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("prune: {ration: 0.3}", "unknown key 'prune.ration'", "ratio"),
        ("prune: {importance: {treshold: 0.1}}", "prune.importance.treshold", "threshold"),
        ("distil: {}", "unknown key 'distil'", "distill"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, text, said, hint):
    with pytest.raises(RequestError, match=said) as caught:
        resolve(family="UNet2DModel", recipe=write(tmp_path, text))
    assert hint in caught.value.hint


@pytest.mark.parametrize("ratio", [1, -1, 1.5])
def test_a_ratio_outside_0_1_is_refused(ratio):
    with pytest.raises(RequestError, match=f"ratio {ratio:g} is not between 0 and 1"):
        resolve(family="UNet2DModel", flags={"prune": {"ratio": ratio}})


@pytest.mark.parametrize("threshold", [-0.1, 1, 2])
def test_a_threshold_outside_0_1_is_refused(threshold):
    with pytest.raises(RequestError, match=r"prune\.importance\.threshold"):
        resolve(family="X", flags={"prune": {"importance": {"threshold": threshold}}})


def test_what_a_caller_changes_is_not_read_again(tmp_path):
    path = write(tmp_path, "prune: {ratio: 0.3}\n")
    read_yaml(path)["prune"]["ratio"] = 0.9
    assert read_yaml(path) == {"prune": {"ratio": 0.3}}
    path.write_text("prune: {ratio: 0.4}\n")
    assert read_yaml(path) == {"prune": {"ratio": 0.4}}


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(RequestError, match=r"unknown target 'trtx' \(did you mean trt"):
        resolve(family="X", flags={"build": {"target": ["trtx"]}})


@pytest.mark.parametrize(
    ("word", "close"),
    [
        ("nope", []),
        ("vino", ["openvino"]),
        ("tensorrt", ["trt"]),
        ("ort", ["ort-cpu", "ort-cuda"]),
        ("rtx", ["trt-rtx"]),
        ("ort_cpu", ["ort-cpu", "ort-cuda"]),
        ("npu", []),
        ("", []),
    ],
)
def test_only_near_names_are_suggested(word, close):
    targets = ("openvino", "ort-cpu", "ort-cuda", "trt", "trt-rtx", "torch")
    assert nearest(word, targets) == close


def test_an_unknown_precision_says_which_there_are():
    with pytest.raises(RequestError, match=r"build\.precision: fp12 is none of auto, fp32,"):
        resolve(family="X", flags={"build": {"precision": "fp12"}})


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RequestError, match="unknown recipe 'unet2'") as caught:
        resolve(family="X", recipe="unet2")
    assert "unet2d" in caught.value.hint


def test_damaged_yaml_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"mine\.yaml"):
        resolve(family="X", recipe=write(tmp_path, "prune: [unclosed"))


def test_every_shipped_recipe_is_valid():
    found = list(recipe_files())
    assert found
    for recipe in found:
        resolve(family=recipe.family, recipe=recipe.path)
        assert recipe.about, recipe.name
        assert recipe.run_with in {"", "random", "trained"}, recipe.name
        assert recipe.run_with == "trained" or not any(map(is_shipped, recipe.models)), recipe.name


def test_a_target_has_its_own_options(tmp_path):
    text = "build: {target: [ort-cpu, trt], each: {trt: {precision: fp16, batch: [1, 8]}}}\n"
    recipe = resolve(family="UNet2DModel", recipe=write(tmp_path, text))
    assert recipe.build.of("trt").precision == "fp16" and recipe.build.of("trt").batch == (1, 8)
    assert recipe.build.of("ort-cpu").precision == "fp32"
    assert recipe.for_target("trt").build.target == ("trt",)


def test_a_flag_is_for_every_target(tmp_path):
    text = "build: {each: {trt: {precision: fp16, batch: [1, 8]}}}\n"
    flags = {"build": {"precision": "bf16", "batch": None}}
    recipe = resolve(family="UNet2DModel", recipe=write(tmp_path, text), flags=flags)
    assert recipe.build.of("trt").precision == "bf16"
    assert recipe.build.of("trt").batch == (1, 8)


@pytest.mark.parametrize(
    ("each", "said"),
    [("{tensorrt: {precision: fp16}}", "unknown target 'tensorrt'"),
     ("{trt: {precison: fp16}}", "precison"), ("{trt: {batch: [0]}}", "below 1")],
)  # fmt: skip
def test_bad_options_of_one_target_are_named(tmp_path, each, said):
    with pytest.raises(RequestError, match=said):
        resolve(family="UNet2DModel", recipe=write(tmp_path, f"build: {{each: {each}}}\n"))


@pytest.mark.parametrize(
    ("told", "sides", "stored"),
    [("32", (32,), 32), ("[32]", (32,), 32), ("[32, 16, 64]", (32, 16, 64), [32, 16, 64])],
)
def test_resolution_is_one_side_or_several(tmp_path, told, sides, stored):
    path = write(tmp_path, f"export: {{resolution: {told}}}\n")
    recipe = resolve(family="UNet2DModel", recipe=path)
    assert recipe.export.resolution == sides
    assert recipe.export.size == 32  # the first is the working one
    assert recipe.export.sizes == (() if len(sides) == 1 else ((32, 32), (16, 16), (64, 64)))
    held = recipe.model_dump(mode="json")
    assert held["export"]["resolution"] == stored  # one side: as locks and keys always had it
    assert Recipe.model_validate(held) == recipe


def test_no_resolution_is_the_models_own():
    export = resolve(family="UNet2DModel").export
    assert (export.resolution, export.size, export.sizes) == (None, None, ())
    assert export.model_dump(mode="json")["resolution"] is None


@pytest.mark.parametrize(
    ("sides", "words"),
    [([], "no side"), ([0], "below 1"), ([16, -8], "below 1"), ([16, 24, 16], "names 16 twice"),
     ([16, "x"], "resolution"), ("big", "resolution")],
)  # fmt: skip
def test_sides_that_cannot_be_are_refused(sides, words):
    with pytest.raises(RequestError, match=words):
        resolve(family="UNet2DModel", flags={"export": {"resolution": sides}})


SD15 = {
    "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
"""Of unet/config.json of stable-diffusion-v1-5, what its recipe looks at."""
HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def of_folder(**changes):
    config = {**SD15, **changes}
    return resolve(family="UNet2DConditionModel", model="./ours", config=config)


def test_a_folder_of_a_known_model_gets_its_recipe():
    known = resolve(family="UNet2DConditionModel", model=HUB_ID)
    assert of_folder() == known != resolve(family="UNet2DConditionModel", model="./ours")


@pytest.mark.parametrize(
    "changes",
    [
        {"cross_attention_dim": 1024},  # Stable Diffusion 2
        {"in_channels": 9},  # inpainting
        {"time_cond_proj_dim": 256},  # distilled for few steps
        {"block_out_channels": [64, 128]},
    ],
)
def test_a_folder_of_another_model_gets_its_familys(changes):
    assert of_folder(**changes) == resolve(family="UNet2DConditionModel", model="./ours")


def test_a_recipe_extends_a_shipped_one(tmp_path):
    path = write(tmp_path, "extends: sd15\ndata: {guidance: 7}\n")
    recipe = resolve(family="UNet2DConditionModel", model="./ours", recipe=path)
    sd15 = resolve(family="UNet2DConditionModel", model=HUB_ID)
    assert recipe.data == sd15.data.model_copy(update={"guidance": 7.0})
    assert recipe.model_copy(update={"data": sd15.data}) == sd15


def test_a_recipe_extends_a_file_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "base.yaml").write_text("extends: sd15\nprune: {ratio: 0.25}\nseed: 7\n")
    path = write(tmp_path, "extends: base.yaml\nseed: 8\n")
    recipe = resolve(family="UNet2DConditionModel", recipe=path)
    assert (recipe.prune.ratio, recipe.seed, recipe.build.precision) == (0.25, 8, "fp16")


def test_a_wrong_key_below_is_told(tmp_path):
    (tmp_path / "base.yaml").write_text("prune: {ratoi: 0.25}\n")
    with pytest.raises(RequestError, match=r"unknown key 'prune\.ratoi'"):
        resolve(family="X", recipe=write(tmp_path, "extends: base.yaml\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: mine.yaml", "extends itself"),
        ("extends: other.yaml", "there is no recipe file"),
        ("extends: sd51", "unknown recipe 'sd51'"),
    ],
)
def test_what_cannot_be_extended(tmp_path, text, said):
    with pytest.raises(RequestError, match=said):
        resolve(family="X", recipe=write(tmp_path, text))


def test_a_lock_is_a_recipe(tmp_path):
    """Every option of it counts, whatever the family's recipe says; flags still win."""
    from diffc.output import write_lock_of

    made = resolve(family="UNet2DConditionModel", model=HUB_ID, flags={"build": {"each": {
        "trt": {"batch": [1, 8]}}}})  # fmt: skip
    model = {"name": "x", "folder": str(tmp_path), "class_name": "X", "digest": "d" * 64}
    write_lock_of(tmp_path, model, made, {})
    path = tmp_path / "recipe.lock.yaml"
    assert resolve(family="UNet2DModel", recipe=path) == made
    assert resolve(family="", recipe=path, base={"seed": 9}) == made
    assert resolve(family="", recipe=path, flags={"seed": 9}).seed == 9


@pytest.mark.parametrize(
    ("change", "said"), [({"format": 99}, "is of format 99"), ({"recipe": None}, "is damaged")]
)
def test_a_lock_that_cannot_be_read(tmp_path, change, said):
    lock = {"format": 1, "model": {}, "recipe": {}, "stages": {}, **change}
    with pytest.raises(InputError, match=said):
        resolve(family="X", recipe=write(tmp_path, yaml.safe_dump(lock)))


@pytest.mark.parametrize(
    ("flags", "cut"),
    [
        ({}, "width,depth"),
        ({"prune": {"cut": "width"}}, "width"),
        ({"prune": {"allocate": "Uniform"}}, "width"),
        ({"prune": {"rounding": "paper"}}, "width"),
        ({"prune": {"ratio_of": "channels"}}, "width"),
        ({"shard": "on"}, "width"),
    ],
)
def test_a_familys_depth_gives_way_to_options_that_know_widths_alone(flags, cut):
    assert resolve(family="UNet2DModel", flags=flags).prune.cut == cut
    assert resolve(family="UNet2DConditionModel", flags=flags).prune.cut == "width"


def test_depth_by_hand_does_not_give_way(tmp_path):
    prune = {"cut": "depth,width", "allocate": "uniform"}
    with pytest.raises(RequestError, match="uniform widths rank no branch"):
        resolve(family="UNet2DModel", flags={"prune": prune})
    file = tmp_path / "mine.yaml"
    file.write_text("prune: {cut: depth}\n")
    with pytest.raises(RequestError, match="uniform widths rank no branch"):
        resolve(family="UNet2DModel", recipe=file, flags={"prune": {"allocate": "uniform"}})
