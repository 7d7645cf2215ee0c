"""Output folders share no file that can be written, with each other or with the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffc import placing
from diffc.placing import clear_folder, place
from diffc.runner import Stage, StageRunner
from diffc.stage_outcomes import StageOutcome
from diffc_export.events import Progress, drain

FILES = ("model/unet/weights.safetensors", "model/config.json", "onnx/dense/model.onnx.data",
         "onnx/dense/model.json", "plan.json")  # fmt: skip


def stage(calls: list[str]) -> Stage:
    """A stage with every kind of place: a model, an ONNX folder, a single file."""

    def run(inputs, folder):
        calls.append("done")
        yield Progress(0, 1)
        for name in FILES:
            path = folder.out / name.removeprefix("onnx/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name * 1000)
        return StageOutcome()

    places = {"model": "model", "dense": "onnx/dense", "plan.json": "plan.json"}
    return Stage("demo", 1, {}, run, StageOutcome, places)


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_no_file_is_shared(tmp_path):
    calls: list[str] = []
    for name in ("a", "b"):
        drain(StageRunner(tmp_path / name, tmp_path / "cache").do(stage(calls)))
    folders = [inodes(tmp_path / name) for name in ("a", "b", "cache")]
    assert len(set.union(*folders)) == sum(map(len, folders)) and calls == ["done"]


@pytest.mark.parametrize("name", FILES)
def test_an_edit_of_one_folder_reaches_no_other(tmp_path, name):
    calls: list[str] = []
    for out in ("a", "b"):
        done = drain(StageRunner(tmp_path / out, tmp_path / "cache").do(stage(calls)))
    with (tmp_path / "a" / name).open("r+") as file:  # in place, as safetensors and onnx write
        file.write("edited")
    assert (tmp_path / "b" / name).read_text() == name * 1000
    kept = done.folder / name.removeprefix("onnx/")
    assert kept.read_text() == name * 1000
    assert drain(StageRunner(tmp_path / "c", tmp_path / "cache").do(stage(calls))).cached
    assert calls == ["done"]


def test_a_folder_that_was_adopted_shares_nothing_with_the_cache(tmp_path):
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    shutil.rmtree(tmp_path / "cache")
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    assert not inodes(tmp_path / "a") & inodes(tmp_path / "cache")


def test_folders_that_an_older_diffc_linked_are_parted(tmp_path):
    done = drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    for name in FILES:
        (tmp_path / "a" / name).unlink()
        os.link(done.folder / name.removeprefix("onnx/"), tmp_path / "a" / name)
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    assert not inodes(tmp_path / "a") & inodes(tmp_path / "cache")


def test_what_is_in_place_already_is_not_copied_again(tmp_path):
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    before = inodes(tmp_path / "a")
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    assert inodes(tmp_path / "a") == before


def test_a_work_folder_that_a_killed_run_left_is_no_hindrance(tmp_path):
    left = tmp_path / "cache" / "work" / f"demo-{stage([]).key[:32]}" / "out"
    (left / "model").mkdir(parents=True)
    (left / "model" / "half").write_text("x")
    left.chmod(0o555)
    drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    assert not (tmp_path / "a" / "model" / "half").exists()


def test_records_are_not_shared_either(tmp_path):
    done = drain(StageRunner(tmp_path / "a", tmp_path / "cache").do(stage([])))
    record = tmp_path / "a" / ".diffc" / "demo.json"
    record.write_text("{}")
    assert json.loads((done.folder / "stage.json").read_text())["key"] == done.key


def test_a_large_engine_is_linked_only_where_it_cannot_be_written(tmp_path, monkeypatch):
    """Root writes to read-only files, and so gets copies; other users get links."""
    monkeypatch.setattr(placing, "LARGE", 10)
    origin, goal = tmp_path / "cache" / "x.engine", tmp_path / "out" / "x.engine"
    origin.parent.mkdir()
    origin.write_text("an engine of some bytes")
    place(origin, goal, "engines/trt/dense")
    assert goal.stat().st_ino != origin.stat().st_ino or not os.access(goal, os.W_OK)
    monkeypatch.setattr(placing.os, "access", lambda *_: False)
    goal.unlink()
    place(origin, goal, "engines/trt/dense")
    assert goal.stat().st_ino == origin.stat().st_ino and not goal.stat().st_mode & 0o222
    place(origin, tmp_path / "out" / "model.bin", "model/model.bin")
    assert (tmp_path / "out" / "model.bin").stat().st_ino != origin.stat().st_ino
    shutil.rmtree(tmp_path / "out")  # read-only files are no hindrance to `rm -rf`
    assert origin.read_text() == "an engine of some bytes"


LEFT = """
    import sys
    from pathlib import Path
    from diffc.placing import clear_folder
    clear_folder(Path(sys.argv[1]))
"""


def test_a_work_folder_without_write_permission_is_cleared(tmp_path):
    left = tmp_path / "work" / "deep"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    (tmp_path / "work" / "gone").symlink_to("/nonexistent")
    for folder in (left, tmp_path / "work"):
        folder.chmod(0o555)
    script = [sys.executable, "-c", "\n".join(line.strip() for line in LEFT.splitlines())]
    limited = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner",
               "--inh-caps=-dac_override,-dac_read_search,-fowner"]  # fmt: skip
    command = limited if os.geteuid() == 0 and shutil.which("setpriv") else []
    subprocess.run([*command, *script, str(tmp_path / "work")], check=True)
    assert not (tmp_path / "work").exists()
    clear_folder(tmp_path / "work")  # nothing there is fine
