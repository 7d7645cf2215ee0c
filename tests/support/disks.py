"""A file system of its own for a test, as small as the test wants it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def file_system(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs in the new ``folder``; the test is skipped where this user may mount none.

    Args:
        folder: Where it is mounted.
        options: Of mount, such as ``size=256k``.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a file system's options, such as its size."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
