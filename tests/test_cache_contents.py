"""The cache: what it holds, what a cleaning takes, and what it leaves since a run uses it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from support.command import diffc_in_process as diffc

from diffc.cache_contents import (
    CacheEntry,
    bytes_of,
    cache_entries,
    chosen_entries,
    clean_cache,
    other_bytes,
    seconds_of,
    used_file,
)
from diffc.errors import RequestError
from diffc.locks import out_lock, stage_lock, use_lock
from diffc.runner import Stage, StageRunner
from diffc.stage_outcomes import StageOutcome
from diffc_export.events import Progress, drain

DAY = 86400.0


class Nothing(StageOutcome):
    """What the stage of these tests finds out."""


def use_stage(runner: StageRunner, value: str) -> bool:
    """Do a stage that writes one file, or reuse it; True where it was reused."""

    def run(inputs, folder):
        yield Progress(0, 1)
        (folder.out / "file.txt").write_text(inputs["value"])
        return Nothing()

    stage = Stage("demo", 1, {"value": value}, run, Nothing, {"file.txt": "file.txt"})
    return drain(runner.do(stage)).cached


def fill(root: Path, *values: str) -> Path:
    """A cache with one stage for each value, which nobody uses any more."""
    for value in values:
        use_stage(StageRunner(root / f"out-{value}", root / "cache"), value)
    return root / "cache"


def test_an_entry_is_its_stage_its_size_and_its_last_use(tmp_path):
    cache = fill(tmp_path, "x", "yy")
    (cache / "preflight").mkdir()
    (cache / "preflight" / "a.json").write_text("[]")
    entries = cache_entries(cache)
    assert [(entry.stage, entry.kind) for entry in entries] == [("demo", "done")] * 2
    files = [path for path in (cache / "done").rglob("*") if path.is_file()]
    assert sum(entry.size for entry in entries) == sum(path.stat().st_size for path in files)
    assert other_bytes(cache) == 2
    assert all(abs(entry.used - time.time()) < 100 for entry in entries)


def test_reuse_counts_as_use(tmp_path):
    cache = fill(tmp_path, "x")
    (name,) = (entry.folder.name for entry in cache_entries(cache))
    for path in (
        used_file(cache, name),
        cache / "done" / name,
        cache / "done" / name / "stage.json",
    ):
        os.utime(path, (1, 1))
    assert cache_entries(cache)[0].used == 1
    fill(tmp_path, "x")
    assert abs(cache_entries(cache)[0].used - time.time()) < 100


def test_what_is_not_there_is_an_empty_cache(tmp_path):
    assert cache_entries(tmp_path / "none") == []
    assert other_bytes(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("older_than", "keep", "gone"),
    [
        (None, None, []),
        (10 * DAY, None, ["old"]),
        (None, 250.0, ["old"]),
        (None, 200.0, ["old"]),
        (None, 150.0, ["old", "middle"]),
        (None, 0.0, ["old", "middle", "new"]),
        (1 * DAY, 100.0, ["old", "middle"]),
        (100 * DAY, 1e9, []),
    ],
)
def test_age_goes_first_and_then_the_longest_unused(older_than, keep, gone):
    ages = {"old": 20, "middle": 5, "new": 0}
    entries = [CacheEntry("done", Path(name), 100, -days * DAY) for name, days in ages.items()]
    chosen = chosen_entries(entries, older_than=older_than, keep=keep, now=0.0)
    assert [entry.folder.name for entry in chosen] == gone


def test_a_cleaning_removes_stages_and_they_are_done_again(tmp_path):
    cache = fill(tmp_path, "x", "y")
    cleaning = clean_cache(cache, cache_entries(cache))
    assert (len(cleaning.removed), cleaning.in_use) == (2, [])
    assert cache_entries(cache) == []
    assert not list((cache / "work").glob("*.used"))
    assert not use_stage(StageRunner(tmp_path / "new-out", cache), "x")
    assert (tmp_path / "out-y/file.txt").read_text() == "y"  # OUT has its own files


def test_what_killed_processes_have_left_can_go(tmp_path):
    """A stage that was being taken over, one that was being replaced, and a search's trials."""
    cache = fill(tmp_path, "x")
    (name,) = (path.name for path in (cache / "done").iterdir())
    left = [f"done/.{name}.0123abcd", f"done/.{name}.old.0123abcd", "trials/0123"]
    for place in left:
        (cache / place).mkdir(parents=True)
        (cache / place / "weights").write_bytes(b"x" * 1000)
    assert other_bytes(cache) == 0
    entries = [entry for entry in cache_entries(cache) if entry.kind == "unfinished"]
    assert sorted(str(one.folder.relative_to(cache)) for one in entries) == sorted(left)
    with out_lock(cache / "trials/0123", cache):
        assert len(clean_cache(cache, entries).in_use) == 1
    assert {entry.folder.name for entry in cache_entries(cache)} == {"0123", name}
    assert used_file(cache, name).exists()
    clean_cache(cache, cache_entries(cache))
    assert cache_entries(cache) == [] and not any((cache / "done").iterdir())


def test_what_a_killed_process_has_left_in_out_goes(tmp_path):
    fill(tmp_path, "x")
    out = tmp_path / "out-x"
    for name in (".file.txt.0123abcd", ".file.txt.old.0123abcd"):
        (out / name).mkdir()
        (out / name / "half").touch()
    (out / ".file.txt.mine").touch()
    use_stage(StageRunner(out, tmp_path / "cache"), "x")
    assert {path.name for path in out.iterdir()} == {".diffc", ".file.txt.mine", "file.txt"}


def test_a_dry_run_makes_nothing_younger(tmp_path):
    cache = fill(tmp_path, "x")
    (entry,) = cache_entries(cache)
    used_file(cache, entry.folder.name).unlink()  # of an older diffc, or of a search's trials
    for path in (entry.folder / "stage.json", entry.folder):
        os.utime(path, (1, 1))
    before = cache_entries(cache)
    assert len(clean_cache(cache, before, dry_run=True).removed) == 1
    assert cache_entries(cache) == before and before[0].used == 1


def test_a_dry_run_removes_nothing(tmp_path):
    cache = fill(tmp_path, "x")
    cleaning = clean_cache(cache, cache_entries(cache), dry_run=True)
    assert len(cleaning.removed) == 1
    assert len(cache_entries(cache)) == 1


def make_read_only(monkeypatch):
    """Let no file be opened to be written, and none be renamed."""
    opened = Path.open

    def refuse(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_(path, mode="r", *rest, **named):
        return refuse(path) if set(mode) & set("wa+") else opened(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(Path, "rename", refuse)


def test_a_read_only_cache_is_looked_at_and_not_cleaned(tmp_path, monkeypatch):
    cache = fill(tmp_path, "x", "yy")
    monkeypatch.setenv("DIFFC_CACHE", str(cache))
    make_read_only(monkeypatch)
    assert "would remove 2 of 2" in diffc("cache", "clean", "--all", "--dry-run").stdout
    done = diffc("cache", "clean", "--all")
    said, hint = done.stderr.splitlines()
    assert done.returncode == 2 and said.endswith("Read-only file system")
    assert said.startswith(f"diffc: cannot remove {cache / 'done' / 'demo-'}")
    assert "may write to it" in hint and "--out" not in hint and "DIFFC_CACHE" not in hint
    assert len(cache_entries(cache)) == 2


def test_the_stages_of_a_run_that_goes_on_stay(tmp_path):
    cache = fill(tmp_path, "other")
    runner = StageRunner(tmp_path / "out", cache)
    use_stage(runner, "mine")
    cleaning = clean_cache(cache, cache_entries(cache))
    assert (len(cleaning.removed), len(cleaning.in_use)) == (1, 1)
    assert len(cache_entries(cache)) == 1
    del runner
    assert len(clean_cache(cache, cache_entries(cache)).removed) == 1


def _hold(path: str, kind: str, ready, end) -> None:
    """Another process that uses a stage, or is doing it."""
    if kind == "uses":
        descriptor = use_lock(Path(path))
        ready.set()
        end.wait(60)
        assert descriptor is not None
        os.close(descriptor)
    else:
        with stage_lock(Path(path)):
            ready.set()
            end.wait(60)


@pytest.mark.parametrize("kind", ["uses", "does"])
def test_what_another_process_uses_or_does_stays(tmp_path, kind):
    cache = fill(tmp_path, "x")
    name = cache_entries(cache)[0].folder.name
    path = used_file(cache, name) if kind == "uses" else cache / "work" / name
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(path), kind, ready, end))
    process.start()
    try:
        assert ready.wait(60)
        assert clean_cache(cache, cache_entries(cache)).removed == []
        assert (cache / "done" / name / "file.txt").exists()
    finally:
        end.set()
        process.join(60)
    assert len(clean_cache(cache, cache_entries(cache)).removed) == 1


def test_unfinished_work_is_an_entry_and_goes(tmp_path):
    cache = tmp_path / "cache"
    for name in ("distill-" + "a" * 32, "distill-" + "b" * 32 + ".rank1", "removed-1-plan-x"):
        (cache / "work" / name / "scratch").mkdir(parents=True)
        (cache / "work" / name / "scratch" / "checkpoint").write_bytes(b"12345")
    (cache / "done" / ".new.tmp").mkdir(parents=True)  # a stage that is being taken over now
    entries = cache_entries(cache)
    assert [(entry.kind, entry.size) for entry in entries] == [("unfinished", 5)] * 3
    with stage_lock(cache / "work" / ("distill-" + "b" * 32)):  # the first process works
        cleaning = clean_cache(cache, entries)
    assert [entry.folder.name[-6:] for entry in cleaning.in_use] == [".rank1"]
    assert len(cache_entries(cache)) == 1
    assert (cache / "done" / ".new.tmp").exists()


def test_a_lock_file_that_a_cleaning_removed_is_made_again(tmp_path):
    """A user that waited for the lock must not hold one on a file that lies nowhere."""
    import fcntl

    path = tmp_path / "work" / "demo.used"
    first = use_lock(path)
    path.unlink()
    second = use_lock(path)
    assert first is not None
    assert second is not None
    with path.open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    os.close(second)


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("1.5d", 129600), ("2 W", 1209600), ("0d", 0)]
)
def test_ages(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 5e8), ("20gb", 2e10), (".5 TB", 5e11), ("0KB", 0)]
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "3y", "1e3d", "nan d", "20GB"])
def test_no_age(text):
    with pytest.raises(RequestError, match=r"--older-than .*12h, 30d or 8w"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["", "20", "GB", "-3GB", "30d", "20 GiB"])
def test_no_size(text):
    with pytest.raises(RequestError, match=r"--keep .*500MB or 20GB"):
        bytes_of(text)


def test_the_verb_shows_and_cleans(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(fill(tmp_path, "x", "y")))
    shown = diffc("cache")
    assert shown.returncode == 0
    assert "demo" in shown.stdout
    assert "in all" in shown.stdout
    said = json.loads(diffc("cache", "clean", "--all", "--json").stdout)
    assert [len(said["removed"]), len(said["in_use"])] == [2, 0]
    assert json.loads(diffc("cache", "--json").stdout)["entries"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "--older-than 30d"),
        (("--keep", "much"), "not an amount such as 500MB or 20GB"),
        (("--older-than", "long"), "not an amount such as 12h, 30d or 8w"),
    ],
)
def test_a_cleaning_that_says_not_what_is_refused(args, words, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFC_CACHE", str(fill(tmp_path, "x")))
    refused = diffc("cache", "clean", *args)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert len(cache_entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("verb", [("cache",), ("cache", "clean", "--all")], ids=" ".join)
def test_a_cache_that_is_a_file_is_no_empty_one(verb, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "file"))
    refused = diffc(*verb)
    assert (
        refused.returncode == 2 and f"DIFFC_CACHE {tmp_path / 'file'} is a file" in refused.stderr
    )
    shown = " ".join(diffc("doctor").stdout.split())
    assert f"no run can begin: DIFFC_CACHE {tmp_path / 'file'} is a file; choose another" in shown
    assert (tmp_path / "file").read_text() == "mine"
