"""The order of the files of tests, and who runs them after a worker has died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.order import LONG_FILES, long_files_first

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


def pytest_session(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, *args, "."],
        cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTEST_ADDOPTS": "", **env},
    )  # fmt: skip


@pytest.mark.slow
def test_slow_tests_that_begin_too_late_are_left_out_and_named(tmp_path):
    (tmp_path / "conftest.py").write_text("""
from support import deadline
def pytest_configure(config): config.pluginmanager.register(deadline)
""")
    (tmp_path / "test_file.py").write_text("""
import pytest
@pytest.fixture(scope="module")
def never(): assert 0, "made for a test that does not run"
@pytest.mark.slow
def test_slow(never): pass
@pytest.mark.slow
class TestMore:
    def test_slow_too(self): pass
def test_fast(): pass
""")
    late = pytest_session(tmp_path, DIFFC_TESTS_END="1000000000")
    assert late.returncode == 0 and "1 passed, 2 skipped" in late.stdout
    assert "NOT RUN, this session's time is over: 2 slow tests\n  test_file.py: 2" in late.stdout
    early = pytest_session(tmp_path, "-k", "not test_slow or too", DIFFC_TESTS_END="99000000000")
    assert "2 passed" in early.stdout and "NOT RUN" not in early.stdout


def test_long_files_come_first_and_each_turn_has_an_order_of_its_own(monkeypatch):
    names = [*LONG_FILES, *(f"tests/test_{i}.py" for i in range(40))]

    def order(turn: str) -> list[str]:
        monkeypatch.setenv("DIFFC_TESTS_TURN", turn)
        items = [SimpleNamespace(nodeid=f"{name}::test_{k}") for name in names for k in range(2)]
        long_files_first(items)
        return [item.nodeid for item in items]

    assert order("")[: 2 * len(LONG_FILES) : 2] == [f"{name}::test_0" for name in LONG_FILES]
    first, second = order("a"), order("b")
    assert first != second and sorted(first) == sorted(second) == sorted(order(""))
    assert first[::2] == [f"{node[:-1]}0" for node in first[1::2]], "a file stays together"


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
    done = pytest_session(tmp_path, "-n", str(workers), "--dist", "loadfile")
    assert said in done.stdout, done.stdout
    assert "CRASHED ONCE, and tried again: test_file1.py::test_" in done.stdout
    assert done.returncode == ("failed" in said)
