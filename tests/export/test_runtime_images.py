"""Pixels and PNG files, read back by Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffc_runtime.errors import BadRequest
from diffc_runtime.images import grid, is_picture, to_uint8, write_png


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_png_round_trip(tmp_path_factory, channels, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    path = tmp_path_factory.mktemp("png") / "image.png"
    write_png(path, image)
    back = np.asarray(Image.open(path)).reshape(image.shape)
    np.testing.assert_array_equal(back, image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def test_png_of_latents_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"save these as \.npy"):
        write_png(tmp_path / "latents.png", np.zeros((8, 8, 4), np.uint8))


@pytest.mark.parametrize(
    ("shape", "picture"),
    [((3, 8, 8), True), ((1, 8, 8), True), ((4, 8, 8), False), ((3, 5, 8, 8), False)],
)
def test_is_picture(shape, picture):
    assert is_picture(shape) == picture


def test_uint8_as_diffusers():
    import torch

    samples = np.random.default_rng(0).standard_normal((4, 3, 5, 7), dtype=np.float32)
    images = VaeImageProcessor().postprocess(torch.from_numpy(samples), output_type="pil")
    np.testing.assert_array_equal(to_uint8(samples), np.stack([np.asarray(i) for i in images]))


def test_grid_places_images_row_by_row():
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(grid(images)[..., 0], [[1, 2, 3], [4, 5, 0]])
    np.testing.assert_array_equal(grid(images, columns=2)[..., 0], [[1, 2], [3, 4], [5, 0]])
