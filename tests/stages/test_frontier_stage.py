"""The frontier's stage in a whole run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffc.follows import still_follows
from diffc.measure.frontier.loops import FrontierLoops
from diffc.measure.frontier.results import ratio
from diffc.measure.frontier.served import BRIEF, with_times_of
from diffc.output import locked_recipe
from diffc.report.collect import collect
from diffc.report.model import Report
from diffc.stages import frontier as frontier_module
from diffc.stages.bench import BenchOutcome, bench_stage
from diffc.stages.frontier import frontier_stage, image_rows

NAME = "frontier-ort-cpu"


@pytest.fixture
def out(compiled, tmp_path):
    return Path(shutil.copytree(compiled[0], tmp_path / "out"))


def stage_of(out, **measure):
    recipe = locked_recipe(out)
    recipe = recipe.model_copy(update={"measure": recipe.measure.model_copy(update=measure)})
    return frontier_stage(out, recipe.for_target("ort-cpu"), Report.read(out).targets)


def test_a_run_has_the_loops_of_both_sides(compiled):
    _, report, _ = compiled
    (made,) = report.frontiers
    assert (made.target, made.n, made.absent) == ("ort-cpu", 4, None)
    assert {point.side for point in made.points} == {"eager", "dense", "compressed"}
    assert all(point.absent is None for point in made.points)
    dense = made.point("dense", made.reference)
    # the engine makes torch's images from torch's noise
    assert dense.figures["ssim"].value > 0.999 and made.with_role("compressed", "own") is not None
    assert made.other_seed.value < 0.9


def test_its_dense_images_are_those_that_the_samples_were_judged_by(compiled):
    """The engine's own loop, judged against torch's dense images, is the samples' figure."""
    _, report, _ = compiled
    own = report.frontiers[0].with_role("compressed", "own")
    assert own.figures["ssim"].each == pytest.approx(report.quality["ssim"]["each"], abs=2e-3)


def test_one_loop_has_one_time(compiled):
    """Whole images have the times of the block in which all loops were timed in turn."""
    _, report, _ = compiled
    (image,), (curves,) = report.pipeline, report.frontiers
    reference, own = curves.with_role("dense", "reference"), curves.with_role("compressed", "own")
    assert image.dense.latency_ms == reference.latency_ms
    assert image.compressed.latency_ms == own.latency_ms
    assert image.speedup == ratio(reference, own) and image.noise == curves.noise
    assert image.compressed.images_per_s == pytest.approx(1e3 / own.latency_ms.p50)
    assert image.details["steps"] == 2 and image.details["rounds"] == curves.details["rounds"]


@pytest.mark.parametrize("missing", ["loop", "batch", "image"])
def test_whole_images_keep_their_own_times_without_the_frontiers(compiled, missing):
    _, report, _ = compiled
    (image,), (curves,) = report.pipeline, report.frontiers
    if missing == "loop":
        curves = curves.model_copy(
            update={"points": [p for p in curves.points if p.side == "dense"]}
        )
    elif missing == "batch":
        curves = curves.model_copy(update={"batch": 2})
    else:
        image = image.model_copy(update={"absent": "no decoder"})
    assert with_times_of(image, curves) is image


def test_a_later_bench_without_the_frontier_keeps_its_own_times(out):
    """Its record has no mark: what it timed at length is no older frontier's."""
    path = out / ".diffc" / "bench-ort-cpu.json"
    record = json.loads(path.read_text())
    assert record["result"]["pipeline"]["details"].pop(BRIEF)
    path.write_text(json.dumps(record))
    (image,) = collect(out).pipeline
    assert image.dense.samples_ms == record["result"]["pipeline"]["dense"]["samples_ms"]
    (curves,) = collect(out).frontiers
    assert image.dense.latency_ms != curves.with_role("dense", "reference").latency_ms


def test_images_are_timed_briefly_where_the_frontier_times_them_too(out):
    recipe = locked_recipe(out).for_target("ort-cpu")
    assert bench_stage(out, recipe, "ort-cpu").inputs.timed_again
    alone = recipe.model_copy(
        update={"measure": recipe.measure.model_copy(update={"frontier": "off"})}
    )
    assert not bench_stage(out, alone, "ort-cpu").inputs.timed_again
    record = out / ".diffc" / "samples.json"
    kept = record.read_text()
    record.write_text(json.dumps({**json.loads(kept), "result": {}}))  # no figure of any image
    assert not bench_stage(out, recipe, "ort-cpu").inputs.timed_again
    record.write_text(kept)
    (out / "samples" / "dense.safetensors").unlink()
    assert not bench_stage(out, recipe, "ort-cpu").inputs.timed_again


def test_new_samples_leave_it_out(out):
    assert still_follows(out, [NAME]) == [NAME]
    record = json.loads((out / ".diffc" / "samples.json").read_text())
    record["files"]["samples/dense.safetensors"] = "0" * 64
    (out / ".diffc" / "samples.json").write_text(json.dumps(record))
    assert still_follows(out, [NAME]) == []
    assert stage_of(out) is None


def test_it_is_off_where_nobody_wants_it_or_nothing_can_be_compared(out):
    assert stage_of(out, frontier="off") is None
    assert stage_of(out).inputs.loops.extent == "quick"
    assert stage_of(out, frontier="full").inputs.n == 4
    path = out / ".diffc" / "samples.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "result": {}}))  # samples that are no pictures
    assert stage_of(out) is None
    path.write_text(json.dumps(record))
    report = Report.read(out)
    untimed = [one.model_copy(update={"speedup": None}) for one in report.targets]
    assert frontier_stage(out, locked_recipe(out).for_target("ort-cpu"), untimed) is None


def test_its_extent_is_in_no_other_key(out):
    recipe = locked_recipe(out)
    full = recipe.measure.model_copy(update={"frontier": "full"})
    other = recipe.model_copy(update={"measure": full})
    keys = {bench_stage(out, one.for_target("ort-cpu"), "ort-cpu").key for one in (recipe, other)}
    assert len(keys) == 1
    assert stage_of(out).key != stage_of(out, frontier="full").key


def test_every_loop_of_the_recipe_is_one_of_the_compressed_models(out):
    recipe = locked_recipe(out).model_copy(update={"loops": ("ddim:2", "dpm++:3@trailing")})
    stage = frontier_stage(out, recipe.for_target("ort-cpu"), Report.read(out).targets)
    served, other = stage.inputs.loops.own
    assert (served.sampler, other.sampler, other.steps, other.spacing) == (
        "ddim", "dpm++", 3, "trailing"
    )  # fmt: skip


def test_the_times_of_calls_say_how_many_steps_fit(out):
    record = json.loads((out / ".diffc" / "bench-ort-cpu.json").read_text())
    timed = BenchOutcome(**record["result"]).targets[0]
    loops = stage_of(out).inputs.loops
    assert isinstance(loops, FrontierLoops)
    assert loops.call_ratio == pytest.approx(1 / timed.speedup.median)


@pytest.mark.parametrize("n", [4, 16])
def test_the_null_condition_stands_for_every_image(n, monkeypatch, tmp_path):
    """Also where a text has as many tokens as there are images, as demo-text's has: 16."""
    null, texts = np.zeros((16, 8), np.float32), np.ones((n, 16, 8), np.float32)
    taken = [SimpleNamespace(kind="condition", name="encoder_hidden_states")]
    info = SimpleNamespace(inputs=taken)
    monkeypatch.setattr(frontier_module, "read_info", lambda _: info)
    given = lambda *_: {"encoder_hidden_states": texts, "class_labels": [1] * n}  # noqa: E731
    monkeypatch.setattr(frontier_module, "judged_conditions", lambda *_: given)
    nulls = {"encoder_hidden_states": null}
    monkeypatch.setattr(frontier_module, "null_conditions", lambda *_: nulls)
    rows = image_rows(tmp_path, "ort-cpu", 0, n)
    assert rows.conditions["encoder_hidden_states"] is texts
    assert rows.unconditional["encoder_hidden_states"].shape == (n, 16, 8)
    assert rows.unconditional["class_labels"].shape == (n,)
