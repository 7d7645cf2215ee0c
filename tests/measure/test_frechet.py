"""Feature distances against other formulas, and clear lines where something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from scipy import linalg

from diffc.errors import InputError, UnavailableError
from diffc.measure.quality.features import features_of, inception, onnx_extractor, statistics
from diffc.measure.quality.frechet import frechet_distance, frechet_error
from diffc.measure.quality.kernel import kernel_distance, kernel_error
from diffc.measure.quality.lpips import METRIC as LPIPS
from diffc_export.events import drain


def draw(seed: int, n: int, d: int = 6, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.random.default_rng(9).normal(size=(d, d)) + shift


@pytest.mark.parametrize("n", [200, 5])  # 5 images in 6 dimensions: singular covariances
def test_frechet_is_the_matrix_formula(n: int) -> None:
    x, y = draw(0, n), draw(1, n, shift=0.5)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(a @ b + (0 if n > 6 else 1e-12 * np.eye(6)))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root.real)
    found = frechet_distance(statistics(x, "e"), statistics(y, "e"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_frechet_of_known_gaussians() -> None:
    """Between one-dimensional Gaussians: (mu - mu')^2 + (s - s')^2."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (20_000, 1))
    y = np.random.default_rng(1).normal(0.0, 1.0, (20_000, 1))
    found = frechet_distance(statistics(x, "e"), statistics(y, "e"))
    assert found == pytest.approx(4 + 4, rel=0.05)
    assert frechet_distance(statistics(x, "e"), statistics(x, "e")) == pytest.approx(0, abs=1e-8)


def test_kernel_distance_is_the_double_sum() -> None:
    x, y = draw(0, 7), draw(1, 5, shift=1.0)

    def k(u, v):
        return (float(u @ v) / 6 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    xy = np.mean([k(u, v) for u in x for v in y])
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy)


@pytest.mark.slow
def test_the_standard_errors_are_those_of_fresh_draws() -> None:
    """Against the spread over many independent draws, and the bootstrap by whole covariances."""
    real = draw(100, 600)
    held = statistics(real, "e")
    many = [draw(seed, 200, shift=0.4) for seed in range(120)]
    spread = np.std([frechet_distance(statistics(x, "e"), held) for x in many])
    found = np.median([frechet_error(x, held) for x in many[:15]])
    assert found == pytest.approx(spread, rel=0.35)
    real, many = 0.3 * real, [0.3 * x for x in many]  # whose cubes have no long tails
    spread = np.std([kernel_distance(x, real) for x in many])
    found = np.median([kernel_error(x, real) for x in many[:15]])
    assert found == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("n", [60, 4])  # 4 images in 6 dimensions: singular
def test_a_resamples_distance_is_the_matrix_formula(n: int) -> None:
    x, held = draw(3, n), statistics(draw(1, 500, shift=0.5), "e")
    generator, by_hand = np.random.default_rng(0), []
    for _ in range(8):
        rows = x[generator.integers(n, size=n)]
        by_hand.append(frechet_distance(statistics(rows, "e"), held))
    assert frechet_error(x, held, resamples=8) == pytest.approx(np.std(by_hand, ddof=1), rel=1e-6)


def test_the_jackknife_leaves_each_row_out() -> None:
    x, y = draw(0, 9), draw(1, 12, shift=0.3)
    out = np.array([kernel_distance(np.delete(x, i, 0), y) for i in range(9)])
    expected = np.sqrt(8 / 9 * ((out - out.mean()) ** 2).sum())
    assert kernel_error(x, y) == pytest.approx(expected)


def test_the_hash_of_statistics_knows_no_order() -> None:
    x = draw(0, 20)
    shuffled = x[np.random.default_rng(1).permutation(20)]
    assert statistics(shuffled, "e").digest == statistics(x, "e").digest
    assert statistics(x[1:], "e").digest != statistics(x, "e").digest


def write_model(path: Path, channels: int = 1) -> np.ndarray:
    """features = the image, flattened, times a matrix."""
    matrix = np.random.default_rng(0).normal(size=(channels * 16, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "m"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [onnx.numpy_helper.from_array(matrix, "m")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return matrix


def test_features_of_an_onnx_model(tmp_path: Path) -> None:
    matrix = write_model(tmp_path / "f.onnx")
    images = torch.randn(5, 1, 4, 4)
    found = drain(features_of(onnx_extractor(tmp_path / "f.onnx"), images, batch=2))
    expected = images.clamp(-1, 1).flatten(1).numpy() @ matrix
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_onnx_model_that_does_not_fit(tmp_path: Path) -> None:
    write_model(tmp_path / "rgb.onnx", channels=3)
    with pytest.raises(InputError, match="not images of"):
        drain(features_of(onnx_extractor(tmp_path / "rgb.onnx"), torch.zeros(2, 1, 4, 4)))
    (tmp_path / "broken.onnx").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        onnx_extractor(tmp_path / "broken.onnx")


def test_what_has_no_statistics() -> None:
    with pytest.raises(InputError, match="at least 2"):
        statistics(np.zeros((1, 3)), "e")
    with pytest.raises(InputError, match="not all finite"):
        statistics(np.full((3, 3), np.nan), "e")
    with pytest.raises(InputError, match="cannot be compared"):
        frechet_distance(statistics(draw(0, 5), "e"), statistics(draw(0, 5), "f"))


def test_missing_weights_are_told_with_their_place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        inception()
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        LPIPS.of_pairs(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
