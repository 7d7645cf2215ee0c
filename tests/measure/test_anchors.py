"""Anchors: the dense model's own samples, judged as the compressed model's are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.quick import save_tiny_model

from diffc.data.synthetic import Conditioning
from diffc.follows import still_follows
from diffc.measure.anchors import (
    JudgedSamples,
    Wanted,
    fewer_steps,
    measure_anchors,
    other_seed,
    steps_in_time,
)
from diffc.measure.quality.ssim import METRIC, ssim
from diffc.measure.results import EngineFigures, Latency, Memory, Speedup, TargetResult
from diffc.measure.samples import ModelLoop, sample_pair
from diffc.models.denoiser import open_denoiser
from diffc.models.inputs import input_specs
from diffc.models.source import find_source
from diffc_export.events import drain
from diffc_runtime.loop import Loop


def image_times(dense, compressed, *, decode=0.0, shown=True):
    """A result of whole images, in milliseconds."""

    def figures(ms):
        latency = Latency(p50=ms, p90=ms, p95=ms, p99=ms, mean=ms, n=9)
        memory = Memory(engine_bytes=1)
        return EngineFigures(
            latency_ms=latency, memory=memory, build_seconds=0.0, precision_found="fp32"
        )

    ratio, width = dense / compressed, 1.01 if shown else 9.0
    ends = (ratio / width, ratio * width)
    return TargetResult(
        target="ort-cpu",
        precision="fp32",
        batch=1,
        dense=figures(dense),
        compressed=figures(compressed),
        speedup=Speedup(median=ratio, ci95=ends, ci99=ends, pairs=9),
        details={"decode_ms": decode},
    )


@pytest.mark.parametrize("decode", [0.0, 35.0])
@pytest.mark.parametrize("timed_steps", [20, 50])
def test_the_steps_that_fit_are_the_most_that_cost_no_more(decode, timed_steps):
    """Against counting: a dense step costs 10 ms, a compressed one 6, beside the decoder."""
    image = image_times(10 * timed_steps + decode, 6 * timed_steps + decode, decode=decode)
    for judged in (4, 25, 50):
        fit = max(n for n in range(judged + 1) if 10 * n + decode <= 6 * judged + decode)
        assert steps_in_time(image, judged) == fit


def test_without_a_speed_up_no_number_of_steps_is_named():
    assert steps_in_time(image_times(10, 6, shown=False), 50) is None
    assert steps_in_time(image_times(6, 10), 50) is None
    assert steps_in_time(image_times(10, 6, decode=8.0), 50) is None
    untimed = image_times(10, 6).model_copy(update={"speedup": None})
    assert steps_in_time(untimed, 50) is None
    assert steps_in_time(image_times(10, 6), 1) == 0


@pytest.mark.parametrize(("steps", "fewer"), [(50, 45), (20, 18), (10, 9), (4, None), (1, None)])
def test_a_tenth_fewer(steps, fewer):
    assert fewer_steps(steps) == fewer


def test_other_noise_is_the_next_image():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = [ssim(images[i], images[(i + 1) % 3]) for i in range(3)]
    assert other_seed(images) == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    source = find_source(str(save_tiny_model(tmp_path_factory.mktemp("tiny"), 3)))
    return open_denoiser(source, input_specs(source))


def test_the_dense_model_is_judged_as_the_compressed_one_was(dense):
    """The oracle samples both step counts as a pair of runs, and takes SSIM in numpy."""
    loop = Loop("ddim", 10)
    both = ModelLoop(dense, loop), ModelLoop(dense, Loop("ddim", 4))
    pair = drain(sample_pair(*both, 3, seed=5))
    images, fewer = pair.dense, pair.compressed
    ours = [0.9, 0.8, 0.7]
    judged = JudgedSamples(images, ours, loop, 5, Conditioning())

    def unchanged(samples):
        yield from ()
        return samples

    measured = drain(measure_anchors(dense, judged, Wanted("ort-cpu", 4, True), unchanged))
    assert [(row.kind, row.steps, row.n) for row in measured.rows] == [
        ("same-time", 4, 3), ("fewer-steps", 9, 3), ("other-seed", 10, 3)
    ]  # fmt: skip
    each = [ssim(images[i], fewer[i]) for i in range(3)]
    row = measured.row("same-time")
    assert row.ssim.mean == pytest.approx(sum(each) / 3, abs=1e-5)
    assert row.worst == pytest.approx(min(each), abs=1e-5)
    ahead = [a - b for a, b in zip(ours, each, strict=True)]
    assert measured.ahead.mean == pytest.approx(sum(ahead) / 3, abs=1e-5)
    assert measured.ahead.ci95[0] < measured.ahead.mean < measured.ahead.ci95[1]
    alone = drain(measure_anchors(dense, judged, Wanted("other", 4, False), unchanged))
    assert [row.kind for row in alone.rows] == ["same-time"]


def test_no_digit_of_an_ssim_shows_that_images_are_kept_in_half_precision():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    a[:, :, :20] = -1.0  # flat, where SSIM divides by little
    b = (a + 0.05 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)
    whole, half = METRIC.of_pairs(a, b), METRIC.of_pairs(a.half().float(), b)
    assert whole == pytest.approx(half, abs=5e-4)


def test_a_run_has_them_and_new_samples_leave_them_out(compiled, tmp_path):
    made, report, _ = compiled
    out = Path(shutil.copytree(made, tmp_path / "out"))
    assert [anchors.target for anchors in report.anchors] == [report.targets[0].target]
    assert report.anchors[0].row("other-seed").n == report.quality["ssim"]["n"]
    name = f"anchors-{report.targets[0].target}"
    assert still_follows(out, [name]) == [name]
    record = json.loads((out / ".diffc" / "samples.json").read_text())
    record["files"]["samples/dense.safetensors"] = "0" * 64
    (out / ".diffc" / "samples.json").write_text(json.dumps(record))
    assert still_follows(out, [name]) == []
