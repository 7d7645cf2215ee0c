"""diffc eval: figures beside the run's own, for as long as they are of OUT/model."""

from __future__ import annotations

import json
import shutil

import pytest
from support.command import diffc_in_process

from diffc.follows import still_follows
from diffc.output import read_lock
from diffc.report.current import current_report
from diffc.report.model import Report


@pytest.fixture
def out(compiled, compiled_cache, tmp_path):
    """A copy of the tiny model's run."""
    return shutil.copytree(compiled[0], tmp_path / "OUT")


def evaluate(out, *args):
    done = diffc_in_process("eval", out, "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_each_evaluation_stays_and_the_newest_is_last(out):
    lock = read_lock(out)
    names = [evaluate(out, "--images", n)["name"] for n in (2, 3, 2)]
    assert names[0] == names[2] != names[1]
    report = Report.read(out)
    assert [one.name for one in report.evaluations] == [names[1], names[0]]
    assert [one.quality["ssim"]["n"] for one in report.evaluations] == [3, 2]
    assert read_lock(out)["recipe"] == lock["recipe"]
    for name, key in lock["stages"].items():
        assert read_lock(out)["stages"][name] == key


def test_an_evaluation_in_the_runs_own_way_adds_nothing(out):
    before = Report.read(out)
    answer = evaluate(out)
    assert answer["name"] == "samples"
    assert answer["quality"] == before.quality
    assert Report.read(out).evaluations == []


def test_the_table_has_the_figures_of_the_evaluation_alone(out):
    done = diffc_in_process("eval", out, "--images", 3)
    assert done.returncode == 0, done.stderr
    assert "3 images from the same noise" in done.stdout
    assert "SSIM" in done.stdout
    assert "latency" not in done.stdout


@pytest.mark.slow
def test_an_evaluation_of_an_older_model_is_left_out(out):
    name = evaluate(out, "--images", 3)["name"]
    assert still_follows(out, [name]) == [name]
    assert diffc_in_process("distill", out, "--distill-steps", 7, "--quiet").returncode == 0
    assert still_follows(out, [name]) == []
    assert Report.read(out).evaluations == []
    assert name not in read_lock(out)["stages"]


def test_an_evaluation_whose_pictures_were_changed_is_left_out(out):
    name = evaluate(out, "--images", 3)["name"]
    (out / "evals" / name.partition("-")[2] / "grid.png").write_bytes(b"")
    report, notes = current_report(out)
    assert report.evaluations == []
    assert any(name in note for note in notes)


def test_what_goes_on_in_a_run_is_added_to_its_commands(out, monkeypatch):
    path = out / "report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "command": "diffc compile tiny --ratio 0.4"}))
    evaluate(out, "--images", 3)
    assert (Report.read(out).command, Report.read(out).then) == (
        "diffc compile tiny --ratio 0.4",
        [],
    )
    for _ in range(2):
        assert diffc_in_process("bench", out, "--quiet").returncode == 0
    report = Report.read(out)
    assert report.command == "diffc compile tiny --ratio 0.4"
    assert len(report.then) == 1
    assert [len(one.quality["ssim"]["each"]) for one in report.evaluations] == [3]


def test_an_evaluation_is_checked_before_any_stage(out, monkeypatch):
    from diffc.stages import order

    checked = []

    def check(source, recipe, *_others):
        checked.append(recipe.quality.images)
        return []

    monkeypatch.setattr(order, "preflight", check)
    own = read_lock(out)["recipe"]["quality"]["images"]
    evaluate(out, "--images", own + 1)
    assert checked == [own, own + 1]
