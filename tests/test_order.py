"""The order of the files of tests, and who runs them after a worker has died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.order import LONG_FILES

ROOT = Path(__file__).parent.parent
HOOKS = """
from support.deaths import (
    pytest_handlecrashitem, pytest_report_teststatus, pytest_terminal_summary,
    pytest_xdist_make_scheduler,
)
"""
BODIES = {
    "pass": "pass",
    "die": "os._exit(1)",
    "once": "os.path.exists('died') or (open('died', 'w'), os._exit(1))",
}


def test_every_long_file_is_there_once():
    assert [name for name in LONG_FILES if not (ROOT / name).is_file()] == []
    assert len(set(LONG_FILES)) == len(LONG_FILES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "workers", "said"),
    [
        (["pass pass", "die", "pass"], 1, "1 failed, 3 passed, 1 crashed once"),
        (["pass pass", "die pass"], 1, "1 failed, 3 passed, 1 crashed once"),
        (["pass", "pass die pass pass", "pass", "pass"], 2, "1 failed, 6 passed, 1 crashed once"),
        (["pass pass", "pass once"], 1, "4 passed, 1 crashed once"),
        (["pass", "once pass pass", "pass"], 2, "5 passed, 1 crashed once"),
    ],
)
def test_a_session_ends_when_a_worker_dies(tmp_path, files, workers, said):
    """The rest of its files runs, and the test in which it died is run once more."""
    (tmp_path / "conftest.py").write_text(HOOKS)
    for i, kinds in enumerate(files):
        tests = [f"def test_{k}(): {BODIES[kind]}" for k, kind in enumerate(kinds.split())]
        (tmp_path / f"test_file{i}.py").write_text("\n".join(["import os", *tests]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "loadfile",
         "-p", "no:cacheprovider", "--rootdir", tmp_path, "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    assert said in done.stdout, done.stdout
    assert "CRASHED ONCE, and tried again: test_file1.py::test_" in done.stdout
    assert done.returncode == ("failed" in said)
