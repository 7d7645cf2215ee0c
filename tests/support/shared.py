"""What is made once in a test session and shared by its worker processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the session that ``make`` filled, in whichever worker came first.

    It is every worker's: what changes it takes a copy (``copy_once``). Sessions of one checkout may
    have a folder in common, which the variable DIFFC_TESTS_SHARE names; CI's two sessions do.
    """
    shared = _common(factory)
    folder, whole = shared / name, shared / f"{name}.whole"
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker that failed has left
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


def common_cache(factory: pytest.TempPathFactory) -> Path:
    """A cache of diffc for chains that make the same networks' files, in all workers' tests."""
    folder = _common(factory) / "cache-of-chains"
    folder.mkdir(exist_ok=True)
    return folder


def _common(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    common = os.environ.get("DIFFC_TESTS_SHARE")
    folder = Path(common) if common else root / "shared"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def copy_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The same, as a copy of this worker's own."""
    return shutil.copytree(make_once(factory, name, make), factory.mktemp(name) / name)
