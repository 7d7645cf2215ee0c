"""Quality figures against formulas written out in numpy, and pairs from the same noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from scipy import ndimage, stats

from diffc.data.sampling import SamplerInfo
from diffc.data.synthetic import Conditioning
from diffc.errors import InputError
from diffc.measure.picture_files import grid, write_pair
from diffc.measure.quality import own_metrics
from diffc.measure.quality.measuring import measure_quality
from diffc.measure.quality.psnr import METRIC as PSNR
from diffc.measure.quality.ssim import METRIC as SSIM
from diffc.measure.samples import ModelLoop, SamplePair, sample_images, sample_pair
from diffc.measure.statistics import estimate
from diffc.models.denoiser import denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc_export.events import drain
from diffc_export.specs import TensorSpec
from diffc_runtime.loop import Loop

INFO = SamplerInfo(Loop("ddim", 3), "leading")
CONFIG = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
ORIGIN = {
    *("loop", "sampler", "steps", "spacing", "guidance"),
    *("reference_loop", "reference_spacing", "seeds", "n"),
}


def pair(n: int = 3, channels: int = 1, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(n, channels, size, size, generator=generator) * 2 - 1
    noise = torch.randn(a.shape, generator=generator) * torch.linspace(0.05, 0.5, n).view(
        -1, 1, 1, 1
    )
    return a, (a + noise).clamp(-1, 1)


def of(a, b) -> SamplePair:
    return SamplePair(a, b, INFO, INFO, 0)


def quality(pair: SamplePair) -> dict:
    """The figures that every run has."""
    return drain(measure_quality(pair, [one for one in own_metrics() if one.always]))


def ssim_written_out(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13: Gaussian window of 11, sigma 1.5, K = .01, .03, mirrored edges.

    On [0, 1], which images in [-1, 1] are moved to first.
    """
    a, b = (a + 1) / 2, (b + 1) / 2

    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.34, mode="mirror")  # radius 5

    c1, c2 = 0.01**2, 0.03**2
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    cov = blur(a * b) - mu_a * mu_b
    value = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
    value /= (mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)
    return float(value.mean())


def test_ssim_is_the_published_formula() -> None:
    a, b = pair()
    expected = [
        ssim_written_out(x[0].double().numpy(), y[0].double().numpy())
        for x, y in zip(a, b, strict=True)
    ]
    assert SSIM.of_pairs(a, b) == pytest.approx(expected, abs=1e-5)
    assert SSIM.of_pairs(a, a) == pytest.approx([1, 1, 1])


def test_an_image_does_not_resemble_its_negative() -> None:
    a, _ = pair()
    assert max(SSIM.of_pairs(a, -a)) < 0


def test_psnr_is_the_formula() -> None:
    a, b = pair(channels=3)
    mse = ((a - b).double() ** 2).mean((1, 2, 3))
    expected = [10 * math.log10(4 / value) for value in mse.tolist()]
    assert PSNR.of_pairs(a, b) == pytest.approx(expected, rel=1e-5)


def test_images_are_clipped_before_they_are_compared() -> None:
    a, b = pair()
    assert SSIM.of_pairs(a * 3, b * 3) == SSIM.of_pairs((a * 3).clamp(-1, 1), (b * 3).clamp(-1, 1))


def test_the_interval_is_students() -> None:
    values = [0.2, 0.5, 0.4, 0.9, 0.7]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found.mean == pytest.approx(0.54) and found.ci95 == pytest.approx((low, high))


def test_the_interval_of_few_images_ends_where_the_values_must() -> None:
    """Student's factor of two values is 12.7: half the width is more than what is left up to 1."""
    assert estimate([0.9, 0.96]).ci95[1] > 1
    figure = SSIM.figure([0.9, 0.96])
    assert figure["ci95"] == [estimate([0.9, 0.96]).ci95[0], 1.0]


def test_identical_images_have_no_psnr() -> None:
    a, b = pair()
    both = quality(of(torch.cat([a, a]), torch.cat([a, b])))["psnr"]
    assert both["identical"] == 3 and both["n"] == 6 and math.isfinite(both["mean"])
    assert quality(of(a, a))["psnr"] is None


@pytest.mark.parametrize("shape", [(0, 1, 16, 16), (2, 1, 16, 17)])
def test_what_cannot_be_compared(shape) -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        PSNR.of_pairs(torch.zeros(shape), torch.zeros(max(shape[0], 0), 1, 16, 16))


def test_images_smaller_than_the_window() -> None:
    with pytest.raises(InputError, match="11x11"):
        SSIM.of_pairs(*pair(size=8))


def tiny(width: int, seed: int = 0) -> UNet2DModel:
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def looped(model, text: str = "ddim:3", config=CONFIG) -> ModelLoop:
    return ModelLoop(denoiser_of(model, FAMILY, config), Loop.parse(text))


def samples(a, b, n: int, **options) -> SamplePair:
    return drain(sample_pair(looped(a), looped(b), n, **options))


def test_both_start_from_the_same_noise() -> None:
    dense = tiny(8)
    same = samples(dense, tiny(8), 3)
    assert torch.equal(same.dense, same.compressed)
    other = samples(dense, tiny(4, seed=1), 3)
    assert torch.equal(same.dense, other.dense)
    assert not torch.allclose(other.dense, other.compressed, atol=1e-2)


def test_an_image_does_not_depend_on_its_batch() -> None:
    a, b = tiny(8), tiny(4)
    torch.testing.assert_close(
        samples(a, b, 5, batch=5).compressed,
        samples(a, b, 5, batch=2).compressed,
        atol=2e-5,
        rtol=0,
    )


def test_figures_say_how_they_were_made() -> None:
    found = quality(samples(tiny(8), tiny(4), 4, seed=3))
    for figure in (found["ssim"], found["psnr"]):
        said = {k: value for k, value in figure.items() if k in ORIGIN}
        assert said == {
            "loop": "ddim:3",
            "sampler": "ddim",
            "steps": 3,
            "spacing": "leading",
            "guidance": 1.0,
            "reference_loop": "ddim:3",
            "reference_spacing": "leading",
            "seeds": [3],
            "n": 4,
        }
        assert figure["ci95"][0] < figure["mean"] < figure["ci95"][1]


def test_the_grid_shows_each_pixel_as_a_square(tmp_path: Path) -> None:
    a, b = pair(n=2, size=16)
    path = grid(SamplePair(a, b, INFO, INFO, 0), tmp_path / "g.png", side=32)
    picture = np.asarray(Image.open(path).convert("L"), dtype=int)
    left = 84
    for row, images in enumerate((a, b)):
        top = 4 + row * 36
        cell = picture[top : top + 32, left : left + 32]
        expected = ((images[0, 0] + 1) * 127.5).round().int().numpy().repeat(2, 0).repeat(2, 1)
        assert abs(cell - expected).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["g.png"]


def test_the_pair_holds_the_same_images_at_the_same_places(tmp_path):
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(13, 1, 8, 8, generator=generator) * 2 - 1
    made = SamplePair(dense, -dense, INFO, INFO, 0)
    paths = write_pair(made, tmp_path, side=16)
    first, second = (np.asarray(Image.open(path).convert("L"), int) for path in paths)
    assert first.shape == second.shape == (2 * 16 + 4, 8 * 16 + 7 * 4)
    cell = first[20:36:2, 20:36:2]  # the tenth image: second row, second column
    np.testing.assert_allclose(cell, (dense[9, 0].numpy() + 1) * 127.5, atol=0.51)
    np.testing.assert_allclose(second[20:36:2, 20:36:2], 255 - cell, atol=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compressed.png", "dense.png"]


def test_conditioned_models_are_compared_as_they_are_sampled() -> None:
    """With classifier-free guidance, on both sides, and the figures say so."""
    seen: list[float] = []

    class Spy:
        def class_count(self, config):
            return None

        def call(self, model, inputs):
            seen.extend(inputs["label"].tolist())
            return inputs["sample"] * inputs["label"].reshape(-1, 1, 1, 1)

    specs = [
        TensorSpec("sample", (1, 16, 16), kind="sample"),
        TensorSpec("timestep", (), kind="timestep"),
        TensorSpec("label", ()),
    ]
    model, rows = torch.nn.Linear(1, 1), {"label": torch.tensor([0.5, 0.25])}
    model.config = {}

    def made(ours: str, **given):
        seen.clear()
        denoiser = denoiser_of(model, Spy(), CONFIG, specs)
        sides = [ModelLoop(denoiser, Loop.parse(text)) for text in ("ddim:2:3", ours)]
        return drain(sample_pair(*sides, 2, Conditioning(rows, **given)))

    plain = made("ddim:2:3")
    assert plain.origin()["guidance"] == 1.0 and set(seen) == {0.5, 0.25}
    assert plain.origin()["loop"] == plain.origin()["reference_loop"] == "ddim:2"
    null = {"label": torch.tensor(0.1)}
    guided = made("ddim:2:3", null=null)
    assert guided.origin()["guidance"] == 3.0
    assert {round(value, 4) for value in seen} == {0.5, 0.25, 0.1}
    assert not torch.allclose(plain.dense, guided.dense)
    assert torch.equal(guided.dense, guided.compressed)
    carried = made("ddim:2", null=null)
    assert carried.origin()["reference_loop"] == "ddim:2:3" and carried.origin()["loop"] == "ddim:2"
    assert torch.equal(carried.dense, guided.dense)
    assert torch.equal(carried.compressed, plain.compressed)


def test_each_side_has_its_loop_and_its_scheduler() -> None:
    """As if each had been sampled alone: other samplers, steps and predictions."""
    network = tiny(8)
    v = {**CONFIG, "prediction_type": "v_prediction", "clip_sample": False}
    dense, ours = looped(network, "ddim:5"), looped(network, "dpm++-sde:3@trailing", v)
    both = drain(sample_pair(dense, ours, 2, seed=4))
    assert torch.equal(both.dense, samples(network, network, 2, seed=4).dense) is False
    assert torch.equal(both.dense, drain(sample_images(dense, 2, seed=4)))
    assert torch.equal(both.compressed, drain(sample_images(ours, 2, seed=4)))
    assert both.origin()["loop"] == "dpm++-sde:3@trailing"
    assert both.origin()["reference_loop"] == "ddim:5"
    epsilon = drain(sample_images(looped(network, "dpm++-sde:3@trailing"), 2, seed=4))
    assert not torch.allclose(both.compressed, epsilon, atol=1e-2)
