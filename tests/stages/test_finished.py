"""A compile that asks for another run where OUT holds a finished one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from support.quick import QUICK

import diffc
from diffc.errors import InputError, RequestError
from diffc.recipe import Recipe
from diffc.runner import StageEvent
from diffc.stages.finished import NEXT, REQUEST
from diffc_runtime.files import file_digest

pytestmark = pytest.mark.usefixtures("compiled_cache")

OTHER = {**QUICK, "distill": {**QUICK["distill"], "steps": 3}}
"""Options of another run, of which distillation and samples are new."""


@pytest.fixture
def out(compiled, tmp_path):
    return shutil.copytree(compiled[0], tmp_path / "out")


def files(out):
    """Every file of OUT that is a person's to see or a record, and its sha256."""
    paths = (path for path in sorted(out.rglob("*")) if path.is_file())
    names = {path.relative_to(out): path for path in paths}
    return {str(n): file_digest(p) for n, p in names.items() if not n.is_relative_to(NEXT)}


def again(model, out, options=OTHER, **settings):
    return diffc.compile(model, ratio=0.4, out=out, options=options, stop="distill", **settings)


def interrupt(stage: str, kind: str):
    def on_event(event: StageEvent) -> None:
        if event.stage == stage and event.kind == kind:
            raise KeyboardInterrupt

    return on_event


def test_another_request_asks_and_touches_nothing(tiny_model, out):
    before = files(out)
    with pytest.raises(RequestError, match=r"distill\.steps 4, now 3") as caught:
        again(tiny_model, out)
    assert "--force" in str(caught.value.hint) and "--out" in str(caught.value.hint)
    assert files(out) == before


def test_many_changes_are_counted(tiny_model, out):
    options = {**OTHER, "quality": {"images": 2}, "reference_loop": "ddim:3"}
    with pytest.raises(RequestError, match=r"(?m); and 1 more$"):
        again(tiny_model, out, options)


def test_the_same_request_goes_on(tiny_model, out):
    report = again(tiny_model, out, QUICK)
    assert all(stage.cached for stage in report.stages)


def test_what_the_gate_allows_is_no_other_request(tiny_model, out):
    assert again(tiny_model, out, {**QUICK, "check": {"max_slowdown": "3%"}})


def test_a_request_of_an_older_diffc_is_read_from_the_lock(tiny_model, out):
    (out / REQUEST).unlink()
    with pytest.raises(RequestError, match=r"distill\.steps 4, now 3"):
        again(tiny_model, out)
    assert again(tiny_model, out, QUICK)


@pytest.mark.parametrize("lock_too", [False, True])
def test_an_option_that_diffc_has_got_since_is_no_other_request(tiny_model, out, lock_too):
    request = json.loads((out / REQUEST).read_text())
    del request["loops"], request["prune"]["cut"]
    (out / REQUEST).write_text(json.dumps(request))
    if lock_too:
        lock = yaml.safe_load((out / "recipe.lock.yaml").read_text())
        del lock["recipe"]["loops"], lock["recipe"]["prune"]["cut"]
        (out / "recipe.lock.yaml").unlink()
        (out / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))
    again(tiny_model, out, options=QUICK)
    with pytest.raises(RequestError, match=r"another request: prune\.ratio"):
        diffc.compile(tiny_model, ratio=0.5, out=out, options=QUICK, stop="distill")


def test_a_target_that_was_added_later_is_no_other_request(tiny_model, out):
    lock = yaml.safe_load((out / "recipe.lock.yaml").read_text())
    lock["recipe"]["build"]["target"].append("openvino")
    (out / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))
    assert again(tiny_model, out, QUICK)


@pytest.mark.slow
def test_an_unfinished_run_is_taken_over(tiny_model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        again(tiny_model, tmp_path / "new", QUICK, on_event=interrupt("plan", "reused"))
    assert again(tiny_model, tmp_path / "new").distillation["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["plan", "distill", "samples"])
def test_interrupted_it_leaves_the_old_run_whole(tiny_model, out, stage):
    before = files(out)
    with pytest.raises(KeyboardInterrupt):
        again(tiny_model, out, force=True, on_event=interrupt(stage, "started"))
    assert files(out) == before
    assert diffc.Report.read(out).distillation["steps"] == 4


@pytest.mark.slow
def test_killed_it_leaves_the_old_run_whole_and_goes_on(tiny_model, out):
    options = {**QUICK, "distill": {**QUICK["distill"], "steps": 5}}  # in no other test: not cached
    code = (
        "import diffc, json, os, sys\n"
        "def on_event(event):\n"
        "    if event.stage == 'distill' and event.progress is not None:\n"
        "        os.kill(os.getpid(), 9)\n"
        "diffc.compile(sys.argv[1], ratio=0.4, out=sys.argv[2], options=json.loads(sys.argv[3]),\n"
        "    stop='distill', force=True, on_event=on_event)\n"
    )
    before = files(out)
    words = [sys.executable, "-c", code, str(tiny_model), str(out), json.dumps(options)]
    assert subprocess.run(words, env={**os.environ}).returncode == -signal.SIGKILL
    assert files(out) == before
    assert again(tiny_model, out, options, force=True).distillation["steps"] == 5


def test_forced_it_replaces_the_run(tiny_model, out, tmp_path):
    report = again(tiny_model, out, force=True)
    new = again(tiny_model, tmp_path / "new")
    assert report.distillation["steps"] == new.distillation["steps"] == 3
    same = [name for name in files(tmp_path / "new") if name.startswith(("model", "samples"))]
    same.remove("model/README.md")  # it says when it was made
    assert len(same) > 5
    ours, theirs = files(out), files(tmp_path / "new")
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert not (out / NEXT).exists()
    assert again(tiny_model, out).distillation["steps"] == 3, "it is the finished run now"


def test_cut_off_while_files_are_placed_the_folder_is_unfinished(tiny_model, out, monkeypatch):
    """The one moment in which OUT holds files of both: every verb says so, and it goes on."""
    from diffc import runner

    real = runner.StageRunner._place

    def place(self, stage, done):
        if self.out == out and stage.name == "distill":
            raise KeyboardInterrupt
        real(self, stage, done)

    monkeypatch.setattr(runner.StageRunner, "_place", place)
    with pytest.raises(KeyboardInterrupt):
        again(tiny_model, out, force=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="unfinished"):
        from diffc.report.collect import collect

        collect(out)


def test_a_stage_that_was_done_again_is_another_request(tiny_model, out):
    from support.command import diffc_in_process

    ended = diffc_in_process("distill", out, "--distill-steps", 3, "--quiet")
    assert ended.returncode == 0, ended.stderr
    assert not (out / REQUEST).exists()
    with pytest.raises(RequestError, match=r"distill\.steps 3, now 4"):
        again(tiny_model, out, QUICK)
    assert again(tiny_model, out), "what the folder holds now"


def test_a_damaged_request_counts_as_none(tiny_model, out):
    (out / REQUEST).write_text("{")
    assert again(tiny_model, out, QUICK)


def test_the_request_holds_every_section_but_the_gates(out):
    kept = json.loads((out / REQUEST).read_text())
    assert set(kept) == set(Recipe.model_fields) - {"check", "shard", "memory"}
