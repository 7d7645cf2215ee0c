"""The order of the files of tests."""

from __future__ import annotations

from pathlib import Path

from support.order import LONG_FILES

ROOT = Path(__file__).parent.parent


def test_every_long_file_is_there_once():
    assert [name for name in LONG_FILES if not (ROOT / name).is_file()] == []
    assert len(set(LONG_FILES)) == len(LONG_FILES)
