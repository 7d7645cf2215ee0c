"""The runner: keys, reuse, damage, kills, adoption, locks, disks."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
from support.disks import file_system

from diffc import launch, stage_seconds
from diffc import runner as module
from diffc.errors import InputError, RequestError, UnavailableError
from diffc.runner import Stage, StageRunner
from diffc.stage_outcomes import StageOutcome
from diffc.stage_seconds import StageClock
from diffc_export.disks import disk_errors
from diffc_export.events import Progress, drain
from diffc_runtime.files import write_text


def make_stage(calls: list[str], value: str = "x", name: str = "demo") -> Stage:
    def run(inputs, folder):
        calls.append(inputs["value"])
        yield Progress(0, 1)
        (folder.out / "folder").mkdir()
        (folder.out / "folder" / "file.txt").write_text(value)
        (folder.out / "one.txt").write_text(value)
        return Told(value=value)

    places = {"folder": "here/folder", "one.txt": "one.txt"}
    return Stage(name, 1, {"value": value}, run, Told, places)


class Told(StageOutcome):
    """What the stages of these tests find out."""

    value: str = ""


def do(runner: StageRunner, stage: Stage):
    return drain(runner.do(stage))


def test_a_stage_is_done_once_for_a_key(tmp_path):
    calls: list[str] = []
    for _ in range(2):
        runner = StageRunner(tmp_path / "out", tmp_path / "cache")
        done = do(runner, make_stage(calls))
    assert calls == ["x"]
    assert done.cached
    assert done.result == Told(value="x")
    assert (tmp_path / "out/here/folder/file.txt").read_text() == "x"


def test_what_a_stage_found_out_is_the_same_when_it_is_read_back(tmp_path):
    """To the byte of its JSON: a run that goes on after a kill writes the same plan.json."""

    def run(inputs, folder):
        yield Progress(0, 1)
        return Why(why={"b": 0.1, "a": [2, {"z": 1, "y": 1 / 3}]})

    stage = Stage("demo", 1, {"value": "x"}, run, Why)
    said = [
        json.dumps(do(StageRunner(tmp_path / "out", tmp_path / "cache"), stage).result.to_json())
        for _ in range(2)
    ]
    assert said[0] == said[1]


class Why(StageOutcome):
    """A result whose keys have an order."""

    why: dict


def test_what_a_stage_left_in_a_cycle_is_gone_before_the_next_one(tmp_path):
    """An engine in a cycle would be open beside those of the next stage."""
    left = []

    class Engine:
        def __init__(self):
            self.itself = self
            left.append(weakref.ref(self))

    def run(inputs, folder):
        yield Progress(0, 1)
        Engine()
        return Told(value="x")

    runner = StageRunner(tmp_path / "out", tmp_path / "cache")
    gc.disable()
    try:
        do(runner, Stage("first", 1, {"value": "x"}, run, Told))
        assert [one() for one in left] == [None]
    finally:
        gc.enable()


def test_other_inputs_and_fresh_do_it_again(tmp_path):
    calls: list[str] = []
    out, cache = tmp_path / "out", tmp_path / "cache"
    do(StageRunner(out, cache), make_stage(calls))
    do(StageRunner(out, cache), make_stage(calls, "y"))
    do(StageRunner(out, cache, fresh=True), make_stage(calls, "y"))
    assert calls == ["x", "y", "y"]
    assert (out / "one.txt").read_text() == "y"


def test_a_cache_that_the_nodes_do_not_share_is_told_once(tmp_path, monkeypatch):
    """The others of a launch see neither the first process's lock nor its result."""
    stage, naps = make_stage([]), []
    out, cache = tmp_path / "out", tmp_path / "cache"

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            monkeypatch.setenv("RANK", "0")
            do(StageRunner(out, cache), stage)
            monkeypatch.setenv("RANK", "1")

    second_of_two(monkeypatch)
    monkeypatch.setattr(launch, "_WARNING_SECONDS", 0.0)
    monkeypatch.setattr(launch.time, "sleep", sleep)
    with pytest.warns(UserWarning, match="'demo' and sees no sign of it.*DIFFC_CACHE") as told:
        assert do(StageRunner(out, cache), stage).result == Told(value="x")
    assert len(told) == 1 and len(naps) == 3


def second_of_two(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("sign", [False, True])
def test_a_process_does_not_wait_for_ever(tmp_path, monkeypatch, sign):
    stage, cache = make_stage([]), tmp_path / "cache"
    second_of_two(monkeypatch)
    monkeypatch.setattr(launch, "_PATIENCE_SECONDS" if sign else "_SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.0)
    if sign:
        lock = cache / "work" / f"demo-{stage.key[:32]}.lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
    with pytest.raises(UnavailableError, match="process 1 waits for the first one's 'demo'"):
        do(StageRunner(tmp_path / "out", cache), stage)


def test_the_others_wait_until_the_files_are_in_out(tmp_path, monkeypatch):
    """The cache has them first, and later stages of every process look into OUT."""
    stage, naps = make_stage([]), []
    out, cache = tmp_path / "out", tmp_path / "cache"
    do(StageRunner(tmp_path / "other", cache), stage)
    second_of_two(monkeypatch)

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            monkeypatch.setenv("RANK", "0")
            do(StageRunner(out, cache), stage)
            monkeypatch.setenv("RANK", "1")

    monkeypatch.setattr(launch.time, "sleep", sleep)
    assert do(StageRunner(out, cache), stage).result == Told(value="x")
    assert len(naps) == 3 and (out / "one.txt").read_text() == "x"
    shutil.rmtree(out)
    monkeypatch.setattr(launch, "_SILENCE_SECONDS", 0.0)
    with pytest.raises(UnavailableError, match=f"no sign of it in {out}") as caught:
        do(StageRunner(out, cache), stage)
    assert "--out" in caught.value.hint


def test_what_was_damaged_in_the_cache_is_made_anew(tmp_path):
    calls: list[str] = []
    out, cache = tmp_path / "out", tmp_path / "cache"
    done = do(StageRunner(out, cache), make_stage(calls))
    (done.folder / "one.txt").write_text("damage")
    do(StageRunner(out, cache), make_stage(calls))
    assert calls == ["x", "x"]
    assert (out / "one.txt").read_text() == "x"


@pytest.mark.parametrize("collective", [True, False])
@pytest.mark.parametrize("name", ["one.txt", "stage.json"])
def test_what_was_damaged_in_the_cache_is_made_anew_by_all(tmp_path, monkeypatch, collective, name):
    """A process that took it for done would leave the first one waiting, or read it broken."""
    calls: list[str] = []
    stage = replace(make_stage(calls), collective=collective)
    out, cache = tmp_path / "out", tmp_path / "cache"
    done = do(StageRunner(out, cache), stage)
    (done.folder / name).write_text("damage")
    second_of_two(monkeypatch)
    with_first: list[list[str]] = []

    def sleep(_seconds):  # the first process comes later
        with_first.append(list(calls))
        monkeypatch.setenv("RANK", "0")
        do(StageRunner(out, cache), stage)
        monkeypatch.setenv("RANK", "1")

    monkeypatch.setattr(launch.time, "sleep", sleep)
    assert do(StageRunner(out, cache), stage).result == Told(value="x")
    assert with_first == [["x"] * (1 + collective)]
    assert (done.folder / "one.txt").read_text() == "x"


def test_what_is_done_twice_in_a_fresh_run_is_done_once_by_all(tmp_path, monkeypatch):
    calls: list[str] = []
    stage = replace(make_stage(calls), collective=True)
    do(StageRunner(tmp_path / "out", tmp_path / "cache"), stage)
    second_of_two(monkeypatch)
    runner = StageRunner(tmp_path / "out", tmp_path / "cache", fresh=True)
    for _ in range(2):
        do(runner, stage)
    assert calls == ["x", "x"]


def test_an_output_folder_alone_is_enough(tmp_path):
    calls: list[str] = []
    do(StageRunner(tmp_path / "out", tmp_path / "cache"), make_stage(calls))
    shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    done = do(StageRunner(tmp_path / "elsewhere", tmp_path / "new-cache"), make_stage(calls))
    assert calls == ["x"]
    assert done.cached


def test_an_altered_output_folder_is_not_trusted(tmp_path):
    calls: list[str] = []
    do(StageRunner(tmp_path / "out", tmp_path / "cache"), make_stage(calls))
    shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    (tmp_path / "elsewhere/one.txt").write_text("altered")
    do(StageRunner(tmp_path / "elsewhere", tmp_path / "new-cache"), make_stage(calls))
    assert calls == ["x", "x"]


def test_a_failed_stage_leaves_what_was_there(tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    do(StageRunner(out, cache), make_stage([]))

    def broken(inputs, folder):
        (folder.out / "one.txt").write_text("half")
        yield Progress(0, 1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        do(StageRunner(out, cache), Stage("demo", 2, {}, broken, Told, {"one.txt": "one.txt"}))
    assert (out / "one.txt").read_text() == "x"


KILLED = """
    import signal, sys, time
    from pathlib import Path
    from diffc_export.events import Progress, drain
    from diffc.runner import Stage, StageRunner
    from diffc.stage_outcomes import StageOutcome

    class Steps(StageOutcome):
        steps_here: int

    def run(inputs, folder):
        for i in range(40):
            count = folder.scratch / "count"
            n = int(count.read_text()) if count.exists() else 0
            if n >= 40:
                break
            count.write_text(str(n + 1))
            yield Progress(n, 40)
            print(n, flush=True)
            if n == int(sys.argv[3]):
                time.sleep(600)  # until the signal
        (folder.out / "file").write_text("whole")
        return Steps(steps_here=i)

    # a shell's background job, as these tests may be, hands down that SIGINT is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runner = StageRunner(Path(sys.argv[1]), Path(sys.argv[2]))
    done = drain(runner.do(Stage("slow", 1, {}, run, Steps, {"file": "file"})))
    print("result", done.result.steps_here, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_scratch_survives_a_kill(tmp_path, how):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path / "out", tmp_path / "cache"]
    with subprocess.Popen(
        [*command, "10"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as process:
        assert [int(next(process.stdout)) for _ in range(11)] == [*range(11)]
        process.send_signal(how)
        assert process.wait(60)
    assert not (tmp_path / "out/file").exists()
    again = subprocess.run([*command, "-1"], capture_output=True, text=True, check=True)
    assert (tmp_path / "out/file").read_text() == "whole"
    assert again.stdout.split()[-2:] == ["result", "29"]  # steps 11 to 39: it did not start over


def test_the_seconds_are_those_of_every_attempt(tmp_path):
    def run(inputs, folder):
        yield Progress(0, 1)
        if not any(folder.scratch.iterdir()):
            (folder.scratch / "half").touch()
            time.sleep(0.3)
            raise KeyboardInterrupt
        return Told(value="x")

    stage = Stage("slow", 1, {}, run, Told)
    with pytest.raises(KeyboardInterrupt):
        do(StageRunner(tmp_path / "out", tmp_path / "cache"), stage)
    assert do(StageRunner(tmp_path / "out", tmp_path / "cache"), stage).seconds >= 0.3


@pytest.mark.parametrize(("left", "counts"), [("checkpoint", True), (None, False)])
def test_a_killed_attempt_counts_where_it_left_something(tmp_path, monkeypatch, left, counts):
    monkeypatch.setattr(stage_seconds, "_KEPT_EVERY", 0.0)
    path, scratch = tmp_path / "seconds", tmp_path / "scratch"
    scratch.mkdir()
    first = StageClock(path, scratch)
    time.sleep(0.2)
    first.tick()  # and then no more
    if left:
        (scratch / left).touch()
    assert (StageClock(path, scratch).seconds >= 0.2) is counts
    path.write_text("nan")
    assert StageClock(path, scratch).seconds < 0.2


def test_what_another_process_has_done_meanwhile_is_taken(tmp_path, monkeypatch):
    calls: list[str] = []
    real = module.stage_lock

    @contextmanager
    def late(work):
        monkeypatch.setattr(module, "stage_lock", real)
        do(StageRunner(tmp_path / "other", tmp_path / "cache"), make_stage(calls))
        with real(work):
            yield

    monkeypatch.setattr(module, "stage_lock", late)
    done = do(StageRunner(tmp_path / "out", tmp_path / "cache"), make_stage(calls))
    assert calls == ["x"] and done.cached


def test_two_runs_of_one_key_do_not_mix(tmp_path):
    runner = StageRunner(tmp_path / "out", tmp_path / "cache")
    first = runner.do(make_stage([]))
    next(first)
    next(first)  # inside the stage now
    with pytest.raises(RequestError, match="another diffc is doing"):
        do(StageRunner(tmp_path / "out2", tmp_path / "cache"), make_stage([]))
    drain(first)


def test_a_full_disk_is_said_in_one_line(small_disk):
    with pytest.raises(InputError, match="No space left on device"), disk_errors(small_disk):
        write_text(small_disk / "big", "x" * 8_000_000)
    assert list(small_disk.iterdir()) == []


def test_a_stage_that_fills_the_disk_leaves_out_as_it_was(small_disk, tmp_path):
    out = small_disk / "out"
    do(StageRunner(out, tmp_path / "cache"), make_stage([]))

    def big(inputs, folder):
        (folder.out / "one.txt").write_text("x" * 8_000_000)
        yield Progress(0, 1)
        return Told()

    with pytest.raises(InputError, match="No space left"):
        do(
            StageRunner(out, tmp_path / "cache"),
            Stage("demo", 3, {}, big, Told, {"one.txt": "one.txt"}),
        )
    assert (out / "one.txt").read_text() == "x"


def test_manifests_are_plain_json(tmp_path):
    done = do(StageRunner(tmp_path / "out", tmp_path / "cache"), make_stage([]))
    record = json.loads((tmp_path / "out/.diffc/demo.json").read_text())
    assert record["key"] == done.key
    assert set(record["files"]) == {"folder/file.txt", "one.txt"}
    assert time.time() > 0 and record["peak_rss_bytes"] > 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, where root may mount one."""
    with file_system(tmp_path / "disk", "size=4m") as place:
        yield place
