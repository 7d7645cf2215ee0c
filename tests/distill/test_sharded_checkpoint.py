"""A checkpoint of a sharded run that does not come to its end: the former one is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.disks import file_system, remount

from diffc.distill import sharded_checkpoint
from diffc.distill.checkpoint import Checkpoint, newest
from diffc.errors import UnavailableError


@pytest.fixture(autouse=True)
def a_group_of_one(tmp_path: Path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def state(step: int) -> Checkpoint:
    tensors = {"a": torch.full((50, 100), float(step)), "b": torch.arange(5.0) * step}
    return Checkpoint(step, "key", tensors, {"losses": [[step, 0.5]]})


def check_newest(folder: Path, step: int) -> None:
    """It is that of ``step``, for a sharded run and for one process."""
    expected = state(step)
    tensors = {name: torch.zeros_like(value) for name, value in expected.tensors.items()}
    record, broken = sharded_checkpoint.load(tensors, folder, "key")
    assert record is not None and record.step == step and not broken
    alone, _ = newest(folder, "key")
    assert alone is not None and alone.numbers == expected.numbers
    for name, value in expected.tensors.items():
        assert torch.equal(tensors[name], value) and torch.equal(alone.tensors[name], value)


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


@pytest.mark.parametrize("place", ["file_digest", "_flush", "write_record", "drop_old"])
def test_one_that_is_cut_off_anywhere(tmp_path: Path, monkeypatch, place: str) -> None:
    """Until its record is there, the one before it is the newest; the next one cleans up."""
    folder = tmp_path / "run"
    for step in (2, 4):
        sharded_checkpoint.save(state(step), folder)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sharded_checkpoint, place, kill)
        with pytest.raises(Killed):
            sharded_checkpoint.save(state(6), folder)
    check_newest(folder, 6 if place == "drop_old" else 4)
    for step in (6, 8):
        sharded_checkpoint.save(state(step), folder)
    check_newest(folder, 8)
    left = sorted(path.name for path in folder.iterdir())
    stems = ["step-00000006", "step-00000008"]
    assert left == sorted([*stems, *(f"{stem}.json" for stem in stems)])


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """One line, the former checkpoint whole; with room, the same one is written."""
    with file_system(tmp_path / "disk", "size=44k") as disk:
        folder = disk / "run"
        sharded_checkpoint.save(state(2), folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(UnavailableError, match=r"cannot be written to .*No space") as caught:
            sharded_checkpoint.save(state(4), folder)
        assert "\n" not in str(caught.value) and "DIFFC_CACHE" in str(caught.value.hint)
        assert all(path.read_bytes() == content for path, content in before.items())
        check_newest(folder, 2)
        remount(disk, "size=1m")
        sharded_checkpoint.save(state(4), folder)
        check_newest(folder, 4)
