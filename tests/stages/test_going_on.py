"""What an output folder remembers of earlier runs, and what it says of one that was cut off."""

from __future__ import annotations

import json

import pytest

from diffc.errors import InputError
from diffc.output import reference_file, write_lock_of
from diffc.recipe import Recipe
from diffc.report.collect import collect, stage_records
from diffc.runner import StageResult
from diffc.stage_outcomes import StageOutcome
from diffc.stage_records import STATE
from diffc.stages.order import _stages

MODEL = {"name": "demo", "class_name": "UNet2DModel", "digest": "d" * 64}
KEYS = {
    "data": "d",
    "plan": "p",
    "distill": "t",
    "samples": "s",
    "export-dense": "e",
    "bench-x": "b",
}


def done(keys, folder):
    return [
        StageResult(name, key, folder, StageOutcome(), 1.0, 1, False) for name, key in keys.items()
    ]


@pytest.fixture
def out(tmp_path):
    write_lock_of(tmp_path, {**MODEL, "folder": str(tmp_path)}, Recipe(), KEYS)
    (tmp_path / STATE).mkdir()
    for name, key in KEYS.items():
        (tmp_path / STATE / f"{name}.json").write_text(json.dumps({"key": key}))
    return tmp_path


@pytest.mark.parametrize("stop", ["plan", "distill", "export"])
def test_what_still_follows_is_kept(out, stop):
    """Other samples change nothing that was exported, built or measured."""
    now = {"data": "d", "plan": "p", "distill": "t", "samples": "others"}
    assert _stages(out, done(now, out), stop) == {**KEYS, "samples": "others"}


@pytest.mark.parametrize("name", ["data", "plan", "distill"])
def test_what_follows_from_another_model_is_forgotten(out, name):
    now = {"data": "d", "plan": "p", "distill": "t", name: "changed"}
    assert _stages(out, done(now, out), "distill") == now


def test_a_whole_run_is_what_the_folder_holds(out):
    """Engines of targets that were not asked for again are no part of it."""
    now = {name: key for name, key in KEYS.items() if name != "bench-x"}
    assert _stages(out, done(now, out), "bench") == now


def test_a_run_that_was_cut_off_is_told(out):
    assert set(stage_records(out, KEYS)) == set(KEYS)
    (out / STATE / "distill.json").write_text(json.dumps({"key": "newer than the lock"}))
    with pytest.raises(InputError, match="is unfinished") as caught:
        collect(out)
    assert "run that command again" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["bench-x", "frontier-x", "build-x-dense", "choose-x"])
def test_a_bench_that_was_cut_off_leaves_a_folder_that_goes_on(out, name):
    """Its records are newer than the lock, which is written last; each of them is whole."""
    (out / STATE / f"{name}.json").write_text(json.dumps({"key": "newer than the lock"}))
    records = stage_records(out, {**KEYS, name: "older"})
    assert records[name] == {"key": "newer than the lock"}


def test_a_first_run_that_was_cut_off_is_told(out):
    write_lock_of(out, {**MODEL, "folder": str(out)}, Recipe(), {})
    with pytest.raises(InputError, match="is unfinished"):
        collect(out)


def test_a_reference_that_is_missing_is_told(out):
    (out / "onnx" / "dense").mkdir(parents=True)
    (out / "onnx" / "dense" / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"reference\.safetensors is missing"):
        reference_file(out, "dense")
