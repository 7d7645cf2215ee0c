"""Sizes of a config and of --resolution: taken, or refused with the sizes that would do."""

from __future__ import annotations

import json

import pytest
from support.family_cases import CASES
from support.pipelines import edit_json, save_ddpm
from support.runs import compile_quickly, refusal

from diffc.cli.command import recipe_options
from diffc.errors import DiffcError, InputError, RequestError
from diffc.input_size import read_size, size_word
from diffc.models.dry_run import dry_run
from diffc.models.resolutions import check_resolution
from diffc.models.source import find_source
from diffc.output import locked_recipe
from diffc.prune.planning import cost_of
from diffc.recipe import resolve

FOUR_LEVELS = {
    "block_out_channels": (16, 16, 32, 32),
    "down_block_types": ("DownBlock2D",) * 4,
    "up_block_types": ("UpBlock2D",) * 4,
}


def config_folder(folder, case, **changes):
    """A lone denoiser of a tiny case; its config alone."""
    class_name, config, _ = CASES[case]
    folder.mkdir(parents=True, exist_ok=True)
    value = {"_class_name": class_name, **config, **changes}
    (folder / "config.json").write_text(json.dumps(value))
    return find_source(folder, need_weights=False)


def test_a_configs_size_that_the_levels_do_not_halve_is_refused_with_the_nearest(tmp_path):
    model = save_ddpm(tmp_path / "m", sample_size=28, **FOUR_LEVELS)
    error = refusal(model, tmp_path / "o")
    assert "sample_size 28 is not a multiple of 8" in str(error)
    assert error.hint == "give one with --resolution; the nearest that are: 24 or 32"
    with pytest.raises(InputError, match="sample_size 28 is not a multiple of 8"):
        cost_of(find_source(model))
    assert cost_of(find_source(model), 32).groups


def test_a_configs_pair_is_refused_where_one_of_its_sides_does_not_fit(tmp_path):
    model = save_ddpm(tmp_path / "m", sample_size=(16, 28), **FOUR_LEVELS)
    error = refusal(model, tmp_path / "o")
    assert "sample_size 16x28 is not a multiple of 8" in str(error)
    assert error.hint.endswith("16x24 or 16x32")


@pytest.mark.parametrize("case", ["dit", "pixart", "sd3", "sana"])
def test_a_transformer_whose_sample_size_is_a_pair_says_that_it_is_square(tmp_path, case):
    source = config_folder(tmp_path, case, sample_size=[8, 12])
    with pytest.raises(InputError, match=r"sample_size is \[8, 12\].*made for a square"):
        cost_of(source)


def test_a_decoder_takes_a_pair_of_image_sides(tmp_path):
    source = config_folder(tmp_path, "vae", sample_size=[16, 32])
    assert cost_of(source).macs(cost_of(source).dense) > 0


@pytest.mark.parametrize("case", ["unet2d", "sd15", "pixart", "sd3", "sana", "wan", "flux"])
def test_height_x_width_is_taken_where_the_class_takes_it(tmp_path, case):
    source = config_folder(tmp_path, case)
    check_resolution(source.class_name, source.config, ((8, 12),))
    dry_run(source, (8, 12))


def test_height_x_width_is_refused_by_a_square_family(tmp_path):
    source = config_folder(tmp_path, "dit")
    with pytest.raises(RequestError, match="for squares only") as caught:
        check_resolution(source.class_name, source.config, ((8, 12),))
    assert caught.value.hint == "give one size, such as --resolution 8"


@pytest.mark.parametrize(
    ("case", "side", "nearest"),
    [
        ("unet2d", (16, 15), "16x14 or 16"),
        ("dit", 9, "8 or 10"),
        ("sd3", 7, "6 or 8"),
        ("flux", 15, "14 or 16"),
        ("wan", (8, 9), "8 or 8x10"),
    ],
)
def test_a_side_that_patches_or_levels_do_not_divide_names_the_nearest(
    tmp_path, case, side, nearest
):
    source = config_folder(tmp_path, case)
    with pytest.raises(
        RequestError, match=f"--resolution {size_word(side)} is not a mult"
    ) as caught:
        check_resolution(source.class_name, source.config, (side,))
    assert caught.value.hint == f"the nearest that are: {nearest}"


@pytest.mark.slow
def test_height_x_width_goes_from_the_flag_to_the_data_and_the_lock(tmp_path):
    model = save_ddpm(tmp_path / "m")
    export = recipe_options({"resolution": "16x24"})["export"]
    compile_quickly(model, tmp_path / "o", "plan", export=export)
    from safetensors.torch import load_file

    clean = load_file(tmp_path / "o" / ".diffc" / "clean.safetensors")
    assert clean["sample"].shape[1:] == (1, 16, 24)
    assert locked_recipe(tmp_path / "o").export.size == (16, 24)


@pytest.mark.parametrize(
    ("text", "sides", "sizes"),
    [
        ("16x24", ((16, 24),), ()),
        ("16X16", (16,), ()),
        ("32,48x64", (32, (48, 64)), ((32, 32), (48, 64))),
        (" 8 , 16 ", (8, 16), ((8, 8), (16, 16))),
    ],
)
def test_words_for_sides(text, sides, sizes):
    export = resolve(family="UNet2DModel", flags=recipe_options({"resolution": text})).export
    assert export.requested_sizes == sides and export.sizes == sizes
    again = type(export).model_validate(export.model_dump(mode="json"))
    assert again == export


@pytest.mark.parametrize("text", ["16x", "x16", "16x24x8", "16*24", "a", "", "16.5"])
def test_words_that_are_no_sides_are_refused_with_words_on_sides(text):
    with pytest.raises(RequestError, match="not a list of sides") as caught:
        recipe_options({"resolution": text})
    assert "64x96 (height x width)" in caught.value.hint


@pytest.mark.parametrize("value", ["0x16", 0, [16, 16], ["16x16", 16], ["8x"], [1.5], True])
def test_sides_of_a_recipe_that_are_none_are_refused(value):
    with pytest.raises(DiffcError, match="resolution"):
        resolve(family="UNet2DModel", flags={"export": {"resolution": value}})


def test_a_size_that_is_no_number_is_refused(tmp_path):
    model = save_ddpm(tmp_path / "m")
    edit_json(model / "unet" / "config.json", sample_size="large")
    error = refusal(model, tmp_path / "o")
    assert "sample_size 'large', which is not a size" in str(error) and "--resolution" in error.hint


def test_a_side_is_read_and_written_alike():
    for side in (8, (8, 12)):
        assert read_size(size_word(side)) == side
    assert read_size("12x12") == 12
