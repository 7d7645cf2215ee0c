"""Faults that are real: a full file system, and memory that the system does not give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_training
from support.disks import file_system, remount
from support.tiny_training import same, trained

from diffc.errors import UnavailableError

WORKER = Path(tiny_training.__file__)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own that holds one checkpoint and not two."""
    trained(tmp_path / "measured", steps=2)
    size = sum(path.stat().st_size for path in (tmp_path / "measured").iterdir())
    with file_system(tmp_path / "disk", f"size={int(1.6 * size)}") as folder:
        yield folder


def test_a_disk_that_is_really_full(small_disk: Path, tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    with pytest.raises(UnavailableError, match="No space left") as caught:
        trained(small_disk)
    assert "DIFFC_CACHE: make room there" in caught.value.hint
    left = {path.name for path in small_disk.iterdir()}
    assert left == {"step-00000002.json", "step-00000002.safetensors"}
    remount(small_disk, "size=1m")
    parts, result = trained(small_disk)
    assert result.resumed_from == 2 and same(parts, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does it")
def test_memory_that_is_really_not_there(tmp_path: Path) -> None:
    """The worker asks for 256 MiB for each sample under a limit that holds one sample's, not two's.

    PyTorch's own allocator fails; the run goes on with single samples to the unlimited weights.
    """
    reports = []
    for name, limit in (("free", 0), ("limited", 400 << 20)):
        result = tmp_path / f"{name}.safetensors"
        command = [sys.executable, str(WORKER), str(tmp_path / name), str(result),
                   json.dumps({"gradient_accumulation": 4} if not limit else {}),
                   str(limit), str(256 << 20)]  # fmt: skip
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == 0
        reports.append((result.read_bytes(), json.loads(result.with_suffix(".json").read_text())))
    assert reports[1][1]["notes"] == [
        "out of memory: going on with 2 samples at a time (the batch stays 4)",
        "out of memory: going on with 1 samples at a time (the batch stays 4)",
    ]
    assert reports[0][0] == reports[1][0] and not reports[0][1]["notes"]
