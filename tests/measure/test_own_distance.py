"""Distances on the dense model's own features: against formulas, at every number of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from diffc.data.sampling import SamplerInfo
from diffc.measure.quality.features import ReferenceFeatures
from diffc.measure.quality.kernel import kernel_distance, kernel_left_out
from diffc.measure.quality.measuring import measure_quality
from diffc.measure.quality.own_distance import OwnFeatures
from diffc.measure.quality.own_frechet import METRIC as FRECHET
from diffc.measure.quality.own_frechet import Directions, frechet_of_few
from diffc.measure.quality.own_kernel import METRIC as KERNEL
from diffc.measure.samples import SamplePair
from diffc_export.events import drain
from diffc_runtime.loop import Loop

INFO = SamplerInfo(Loop("ddim", 3), "leading")
WIDTH = 20
SCALES = np.geomspace(10, 0.01, WIDTH)


def draw(seed: int, n: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Features of a model: of very different scales, as activations are."""
    random = np.random.default_rng(seed)
    return (scale * random.normal(size=(n, WIDTH)) + shift) * SCALES


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^1/2), by scipy's square root of a matrix."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(one @ other).real
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(one + other - 2 * root))


def test_directions_have_variance_one_and_come_by_variance() -> None:
    reference = draw(0, 300)
    directions = Directions.of(reference, 100)
    along = directions(reference)
    assert len(directions) == 8
    np.testing.assert_allclose(np.cov(along, rowvar=False), np.eye(8), atol=1e-9)
    np.testing.assert_allclose(along.mean(0), 0, atol=1e-9)
    first = np.abs(np.corrcoef(along[:, 0], reference[:, 0])[0, 1])
    assert first > 0.99, "the first direction is the channel of the largest variance"


@pytest.mark.parametrize(("n", "m", "count"), [(8, 300, 2), (15, 300, 3), (300, 12, 3)])
def test_few_images_have_few_directions(n: int, m: int, count: int) -> None:
    assert len(Directions.of(draw(0, m), n)) == count


def test_directions_that_do_not_vary_are_left_out() -> None:
    reference = draw(0, 100)
    reference[:, 3:] = 1.0
    assert len(Directions.of(reference, 100)) == 3


def test_the_jackknife_leaves_each_image_of_both_sets_out() -> None:
    ours, reference = draw(1, 14, shift=0.2), draw(2, 18)
    directions = Directions.of(reference, 14)
    a, b = directions(ours), directions(reference)
    whole = by_hand(a, b)
    without = np.array([by_hand(np.delete(a, i, 0), b) for i in range(14)])
    others = np.array([by_hand(a, np.delete(b, i, 0)) for i in range(18)])
    expected = whole - 13 * (without.mean() - whole) - 17 * (others.mean() - whole)
    measured = frechet_of_few(ours, reference, directions)
    assert measured.value == pytest.approx(expected, rel=1e-6)
    error = np.sqrt(13 / 14 * np.sum((without - without.mean()) ** 2))
    assert measured.error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("metric", [FRECHET, KERNEL], ids=lambda metric: metric.name)
@pytest.mark.parametrize("n", [16, 32, 128])
def test_two_sets_of_one_model_have_a_distance_of_about_zero(metric, n: int) -> None:
    """Over 60 draws the mean is within three standard errors of 0; the plain one is far above."""
    values = []
    for seed in range(60):
        ours, reference = draw(2 * seed, n), draw(2 * seed + 1, 256)
        values.append(metric.distance(ours, reference).value)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error + 0.02
    assert min(values) < 0


def test_the_plain_distance_of_few_images_is_far_above_zero() -> None:
    reference = draw(1, 256)
    directions = Directions.of(reference, 32)
    plain = [by_hand(directions(draw(seed, 32)), directions(reference)) for seed in range(2, 12)]
    assert min(plain) > 0.3


@pytest.mark.parametrize("metric", [FRECHET, KERNEL], ids=lambda metric: metric.name)
def test_the_error_is_the_spread_of_fresh_draws(metric) -> None:
    reference = draw(1000, 256)
    figures = [metric.distance(draw(seed, 64, shift=0.3), reference) for seed in range(80)]
    spread = np.std([figure.value for figure in figures], ddof=1)
    assert np.median([figure.error for figure in figures]) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("metric", [FRECHET, KERNEL], ids=lambda metric: metric.name)
def test_sets_that_are_further_away_are_further(metric) -> None:
    reference = draw(1, 256)
    values = [metric.distance(draw(2, 64, shift=s), reference).value for s in (0, 0.3, 0.6, 1.2)]
    assert values == sorted(values) and values[-1] > 10 * abs(values[0])


def test_scales_of_channels_do_not_matter_to_the_kernel_distance() -> None:
    ours, reference = draw(1, 40, shift=0.3), draw(2, 90)
    other = np.geomspace(0.001, 1000, WIDTH)
    expected = KERNEL.distance(ours, reference).value
    assert KERNEL.distance(ours * other + 7, reference * other + 7).value == pytest.approx(expected)


def test_the_kernel_distance_without_each_image() -> None:
    a, b = draw(0, 7), draw(1, 9, shift=0.2)
    expected = [kernel_distance(np.delete(a, i, 0), b) for i in range(7)]
    np.testing.assert_allclose(kernel_left_out(a, b), expected, rtol=1e-9)


def test_sides_from_the_same_noise_are_compared_image_by_image() -> None:
    """The paired error is that of fresh pairs, and far below that of two independent sets."""
    reference, differences, errors, apart = draw(999, 256), [], [], []
    for seed in range(60):
        theirs = draw(seed, 64)
        ours = theirs + 0.1 * draw(5000 + seed, 64) + 0.2 * SCALES
        one, other = (FRECHET.distance(side, reference) for side in (ours, theirs))
        difference, error = one.further_than(other)
        differences.append(difference)
        errors.append(error)
        apart.append(np.hypot(one.error, other.error))
    assert np.median(errors) == pytest.approx(np.std(differences, ddof=1), rel=0.4)
    assert np.median(errors) < 0.7 * np.median(apart)


def pair(n: int, reference: np.ndarray | None) -> SamplePair:
    images = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = SamplePair(images, images, INFO, INFO, 0)
    if reference is None:
        return samples
    taken = ReferenceFeatures(reference, "the dense model (mid_block)", "digest", "9 samples")
    own = OwnFeatures(draw(1, n), draw(1, n, shift=0.3), taken)
    return SamplePair(**{**vars(samples), "own": own})


def test_a_run_has_both_figures_beside_the_others() -> None:
    figures = drain(measure_quality(pair(40, draw(2, 90)), [FRECHET, KERNEL]))
    assert "absent" not in figures
    for metric in (FRECHET, KERNEL):
        figure = figures[metric.name]
        expected = metric.distance(draw(1, 40, shift=0.3), draw(2, 90))
        assert figure["compressed"] == expected.value > figure["dense"]
        assert figure["se"]["compressed"] == expected.error
        assert figure["further"]["value"] == figure["compressed"] - figure["dense"]
        assert figure["n"] == 40 and figure["reference"]["n"] == 90
        assert figure["reference"]["of"] == "9 samples" and figure["features_sha256"] == "digest"
        assert metric.value(figure) == figure["compressed"]
    assert figures["own-frechet"]["directions"] == 8


def test_too_few_images_and_no_features_are_said() -> None:
    few = drain(measure_quality(pair(7, draw(2, 90)), [FRECHET]))
    assert few["own-frechet"] is None
    assert "needs 8 images, and there are 7" in few["absent"]["own-frechet"]
    one = drain(measure_quality(pair(20, draw(2, 2)), [KERNEL]))
    assert "needs 3 images, and there are 2" in one["absent"]["own-kernel"]
    none = drain(measure_quality(pair(20, None), [FRECHET]))
    assert "no features of the dense model" in none["absent"]["own-frechet"]
