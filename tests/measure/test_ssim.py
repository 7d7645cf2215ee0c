"""SSIM without torch against torchmetrics' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffc.measure.quality.ssim import METRIC, is_image, ssim


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16), channels=st.sampled_from([1, 3]), height=st.integers(11, 40),
    width=st.integers(11, 40), noise=st.floats(0, 2), level=st.floats(-1.5, 1.5),
)  # fmt: skip
def test_it_is_torchmetrics_value(seed, channels, height, width, noise, level):
    random = np.random.default_rng(seed)
    a = (level + random.standard_normal((channels, height, width))).astype(np.float32)
    b = (a + noise * random.standard_normal(a.shape)).astype(np.float32)
    (expected,) = METRIC.of_pairs(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert ssim(a, b) == pytest.approx(expected, abs=2e-4)  # theirs is in fp32


def test_an_image_is_like_itself_and_not_like_its_negative():
    image = np.random.default_rng(0).standard_normal((1, 16, 16))
    assert ssim(image, image) == 1
    assert ssim(image, -image) < 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 11, 11), True), ((3, 64, 64), True), ((4, 64, 64), False), ((3, 8, 64), False),
     ((256, 64), False)],
)  # fmt: skip
def test_latents_and_stamps_are_no_images(shape, expected):
    assert is_image(shape) is expected


def test_no_digit_of_an_ssim_shows_that_images_are_kept_in_half_precision():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    a[:, :, :20] = -1.0  # flat, where SSIM divides by little
    b = (a + 0.05 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)
    whole, half = METRIC.of_pairs(a, b), METRIC.of_pairs(a.half().float(), b)
    assert whole == pytest.approx(half, abs=5e-4)
