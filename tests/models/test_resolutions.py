"""Sides that one export can serve, against what diffusers' own models do at them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffc.errors import RequestError
from diffc.models.families import family, family_names
from diffc.models.families.base import Family
from diffc.models.resolutions import check_resolution, multiple_of

UNET = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
SIZED = [name for name in family_names() if name.endswith("Model")]


def test_the_multiple_is_what_a_unet_needs():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3}
    model = UNet2DModel(in_channels=1, out_channels=1, **UNET, **blocks).eval()
    factor = multiple_of("UNet2DModel", dict(model.config))
    assert factor == 4
    for side in range(1, 17):
        sample = torch.zeros(1, 1, side, side)
        try:
            fits = model(sample, 0).sample.shape == sample.shape
        except RuntimeError:
            fits = False
        assert fits == (side % factor == 0)


def test_a_config_without_levels_has_diffusers_own_number():
    from diffusers import UNet2DConditionModel, UNet2DModel

    for kind in (UNet2DModel, UNet2DConditionModel):
        with torch.device("meta"):
            whole = dict(kind().config)
        assert multiple_of(kind.__name__, {}) == multiple_of(kind.__name__, whole) == 8


def test_a_decoder_takes_any_side():
    check_resolution("AutoencoderKL", {}, (3, 5, 7))


def test_a_family_of_fixed_positions_serves_one_resolution(monkeypatch):
    """As another package's may be: it says nothing of several."""
    name = "FluxTransformer2DModel"
    monkeypatch.setattr(type(family(name)), "shared_multiple", Family.shared_multiple)
    check_resolution(name, {}, (64,))
    check_resolution(name, {}, ())
    with pytest.raises(RequestError, match=f"--resolution 32,64: a {name} serves one") as caught:
        check_resolution(name, {}, (32, 64))
    assert "UNet2DModel" in caught.value.hint


@pytest.mark.parametrize("name", SIZED)
def test_other_families_serve_several(name):
    check_resolution(name, {}, (32, 64))
    if family(name).squares_only:
        with pytest.raises(RequestError, match="for squares only"):
            check_resolution(name, {}, ((32, 64), (64, 32)))
    else:
        check_resolution(name, {}, ((32, 64), (64, 32)))


@pytest.mark.parametrize(
    ("name", "config"),
    [("SD3Transformer2DModel", {"pos_embed_max_size": 16}),
     ("WanTransformer3DModel", {"rope_max_seq_len": 16})],
)  # fmt: skip
def test_a_side_without_positions_is_refused(name, config):
    check_resolution(name, config, ((32, 16), (16, 32)))
    with pytest.raises(RequestError, match="has positions for 32x32 at most") as told:
        check_resolution(name, config, ((32, 16), (16, 34)))
    assert told.value.hint == "the nearest is 16x32"


@given(st.lists(st.integers(1, 100), min_size=2, max_size=5, unique=True))
def test_the_first_side_that_does_not_fit_is_named_with_its_neighbours(sides):
    bad = [side for side in sides if side % 4]
    if not bad:
        check_resolution("UNet2DConditionModel", UNET, sides)
        return
    with pytest.raises(RequestError, match=f"--resolution {bad[0]} is not a multiple of 4") as told:
        check_resolution("UNet2DConditionModel", UNET, sides)
    near = [int(word) for word in told.value.hint.split(": ")[1].split(" or ")]
    assert all(side > 0 and side % 4 == 0 and abs(side - bad[0]) < 4 for side in near)


def test_a_single_side_is_checked_where_the_model_would_fail_at_it():
    with pytest.raises(RequestError, match="15 is not a multiple of 4"):
        check_resolution("UNet2DModel", UNET, (15,))
    check_resolution("UNet2DConditionModel", UNET, (15,))  # diffusers pads these itself


@pytest.mark.parametrize("size", [(512, 768), 132, (128, 132)])
def test_a_size_that_the_weights_know_nothing_of_is_refused(size):
    config = {**UNET, "sample_size": 32}
    with pytest.raises(RequestError, match="was trained at 32x32") as told:
        check_resolution("UNet2DModel", config, (size,))
    assert "64x96 for 512x768" in told.value.hint


@pytest.mark.parametrize("own", [32, [32, 32], None, "32", [32]])
def test_a_size_within_four_times_each_side_is_taken(own):
    check_resolution("UNet2DConditionModel", {**UNET, "sample_size": own}, (128,))
    if own is None:  # nothing is known of it
        check_resolution("UNet2DConditionModel", {**UNET, "sample_size": own}, (4096,))
