"""Loops sampled, judged and timed by engines."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_folder import SCHEDULER, write_handmade_folder

from diffc.measure.frontier.judging import judge, other_noise
from diffc.measure.frontier.loops import WantedLoop, short
from diffc.measure.frontier.measuring import JudgedBy, SideWork, measure_points
from diffc.measure.latency import LatencyOptions
from diffc.measure.loop import LoopOptions
from diffc.measure.quality.ssim import ssim
from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions
from diffc_runtime import Pipeline
from diffc_runtime.loop import Loop

TIMING = LatencyOptions(rounds=3, seconds=0.0, warmup_seconds=0.0)
SETTINGS = {"scheduler": SCHEDULER, "sampler": "ddim", "unconditional": None, "latent": None}
SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function: target's name, batch sizes -> the two engine folders."""
    folder = tmp_path_factory.mktemp("frontier")

    def build(name, batch=(1,)):
        made = {}
        for side, channels in (("dense", 8), ("compressed", 4)):
            onnx = folder / f"onnx-{side}"
            if not onnx.is_dir():
                write_handmade_folder(onnx, channels, size=16)
            made[side] = folder / f"{name}-{batch}-{side}"
            if not made[side].is_dir():
                drain(target(name).build(onnx, BuildOptions(batch=batch, threads=1), made[side]))
        return made

    return build


def wanted(*texts):
    return tuple(WantedLoop(Loop.parse(text), ("grid",)) for text in texts)


def judged_by(n, shape=SHAPE, seed=3):
    images = np.random.default_rng(0).uniform(-1, 1, (n, *shape)).astype(np.float32)
    return JudgedBy(images, seed, {}, {}, ("ssim",))


def measured(engines, loops, judged, **sides):
    work = [
        SideWork(side, engines[side], SETTINGS, loops, **sides.get(side, {}))
        for side in ("dense", "compressed")
    ]
    return drain(measure_points(work, LoopOptions(), judged, TIMING, 1))


def test_a_point_is_judged_by_the_images_of_its_loop(built):
    engines, judged = built("ort-cpu"), judged_by(3)
    result = measured(engines, wanted("ddim:4", "dpm++:2@trailing"), judged)
    assert [point.name for point in result.points] == [
        "dense ddim:4", "dense dpm++:2@trailing", "compressed ddim:4", "compressed dpm++:2@trailing"
    ]  # fmt: skip
    for point in result.points:
        runner = target("ort-cpu").load(engines[point.side], 1).any_batch()
        loop = Loop.parse(point.loop)
        pipeline = Pipeline(
            lambda arrays, run=runner: run(arrays)["out_sample"], loop.config(SCHEDULER), SHAPE
        )
        images = pipeline.generate(3, loop.steps, 3, loop.sampler)
        expected = [ssim(a, b) for a, b in zip(judged.reference, images, strict=True)]
        assert point.figures["ssim"].each == pytest.approx(expected, abs=1e-5)
        assert len(point.round_ms) == 3 and point.latency_ms.p50 > 0 and point.absent is None
    assert result.details["rounds"] == 3 and result.noise is not None


def test_an_engine_with_a_fixed_batch_makes_the_same_images(built):
    """Three images by an engine that takes two at a time, and no fewer."""
    judged = judged_by(3)
    fixed, single = (
        measured(built("fake", batch), wanted("ddim:3"), judged).points for batch in ((2,), (1,))
    )
    for one, other in zip(fixed, single, strict=True):
        assert one.absent is one.unjudged is None
        assert one.figures["ssim"].each == pytest.approx(other.figures["ssim"].each, abs=1e-6)


def test_samples_that_are_no_images_are_timed_and_not_judged(built):
    """A latent model on a target without a decoder: its samples have another shape."""
    result = measured(built("ort-cpu"), wanted("ddim:2"), judged_by(2, (3, 32, 32)))
    for point in result.points:
        assert point.latency_ms is not None and not point.figures
        assert point.unjudged == (
            "its samples have the shape [1, 16, 16], and the reference loop's images [3, 32, 32]"
        )


def test_a_loop_that_cannot_run_is_absent_with_the_reason(built):
    result = measured(built("ort-cpu"), wanted("ddim:2", "flow-euler:2"), judged_by(2))
    dense = {point.loop: point for point in result.points if point.side == "dense"}
    assert "flow-matching" in dense["flow-euler:2"].absent
    assert dense["ddim:2"].latency_ms is not None and not dense["flow-euler:2"].round_ms


def test_a_side_without_an_engine_leaves_the_others(built):
    result = measured(
        built("ort-cpu"), wanted("ddim:2"), judged_by(2), dense={"absent": "no torch here"}
    )
    dense, small = result.points
    assert dense.absent == "no torch here" and dense.latency_ms is None
    assert small.figures and small.latency_ms is not None


def test_guidance_leads_each_image_away_from_its_own_null_condition(tmp_path):
    """Against one image after the other, each with its own row."""
    from support.tiny_engines import SCHEDULER as CONFIG
    from support.tiny_engines import SHAPE as SMALL
    from support.tiny_engines import engine_folder

    folder = engine_folder(tmp_path / "engine", conditions=True)
    rng = np.random.default_rng(1)
    rows = {
        "class_labels": np.array([1, 4, 7]),
        "encoder_hidden_states": rng.standard_normal((3, 4, 5)).astype(np.float32),
    }
    none = {name: np.zeros_like(value) for name, value in rows.items()}
    reference = rng.uniform(-1, 1, (3, *SMALL)).astype(np.float32)
    judged = JudgedBy(reference, 5, rows, none, ("psnr",))
    side = SideWork("dense", folder, {**SETTINGS, "scheduler": CONFIG}, wanted("ddim:3:4"))
    first = {name: value[0] for name, value in rows.items()}
    zeros = {name: value[0] for name, value in none.items()}
    image = LoopOptions(conditions=first, unconditional=zeros)
    (point,) = drain(measure_points([side], image, judged, TIMING, 1)).points

    run = target("ort-cpu").load(folder, 1).any_batch()
    from diffc_runtime.engines import specs

    pipeline = Pipeline(
        lambda arrays: run(arrays)["output"], CONFIG, SMALL, inputs=specs(run.info.to_json())
    )
    for i, found in enumerate(point.figures["psnr"].each):
        image = pipeline.generate(
            1, 3, 5, "ddim", 4.0, {k: v[i] for k, v in rows.items()},
            {k: v[i] for k, v in none.items()}, first=i,
        )[0]  # fmt: skip
        error = np.mean((np.clip(image, -1, 1) - reference[i]) ** 2)
        assert found == pytest.approx(10 * np.log10(4 / error), abs=1e-3)
    assert point.calls == 6 and point.loop == short(Loop.parse("ddim:3:4"))


def test_metrics_that_such_pictures_cannot_have_are_left_out():
    small = np.zeros((2, 1, 8, 8), np.float32)
    assert judge(small, small + 0.5, ("ssim", "psnr", "no-such-metric")).keys() == {"psnr"}
    assert judge(small, small, ("psnr",)) == {}  # infinite
    assert other_noise(small) == [] and other_noise(np.zeros((1, 1, 16, 16), np.float32)) == []


def test_without_torch_the_ssim_is_numpys(monkeypatch):
    a, b = np.random.default_rng(2).uniform(-1, 1, (2, 2, 1, 16, 16)).astype(np.float32)
    with_torch = judge(a, b, ("ssim", "psnr"))
    monkeypatch.setattr("diffc.measure.frontier.judging.find_spec", lambda name: None)
    without = judge(a, b, ("ssim", "psnr"))
    assert without.keys() == {"ssim"}
    assert without["ssim"].each == pytest.approx(with_torch["ssim"].each, abs=1e-5)
