"""Checkpoints that are broken: what a run does then, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import plain_lesson

from diffc.distill import run


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("every", [2, 3])
def test_where_both_that_are_kept_are_broken_the_new_ones_are_kept(tmp_path: Path, every) -> None:
    """A run that is killed a second time does not begin a third time."""
    plain_lesson.killed_at(7, tmp_path, steps=12)
    assert left(tmp_path) == [
        f"step-{step:08d}.{kind}" for step in (4, 6) for kind in ("json", "safetensors")
    ]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    plain_lesson.killed_at(every + 1, tmp_path, steps=12, checkpoint_every=every)
    again = list(plain_lesson.work(tmp_path, steps=12))
    assert again[0].note == f"going on from step {every}" and again[-1].done == 12


def test_what_killed_processes_left_half_written_goes(tmp_path: Path) -> None:
    """Both of a whole run and of a sharded one, whatever step they were at."""
    (tmp_path / ".step-00000009.safetensors.part").write_bytes(b"half")
    (tmp_path / ".step-00000007.part").mkdir()
    (tmp_path / ".step-00000007.part" / "shard.safetensors").write_bytes(b"half")
    plain_lesson.killed_at(3, tmp_path)
    assert left(tmp_path) == ["step-00000002.json", "step-00000002.safetensors"]


def test_a_run_that_cannot_be_resumed_leaves_no_hooks(tmp_path: Path, monkeypatch) -> None:
    closed: list[object] = []

    def unreadable(folder: Path, key: str) -> None:
        raise OSError("the folder cannot be read")

    monkeypatch.setattr(run, "newest", unreadable)
    monkeypatch.setattr(plain_lesson.PlainLesson, "close", lambda lesson: closed.append(lesson))
    with pytest.raises(OSError, match="cannot be read"):
        next(plain_lesson.work(tmp_path))
    assert len(closed) == 1
