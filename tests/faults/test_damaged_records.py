"""Records of an output folder that were damaged lose what they said, and nothing else."""

from __future__ import annotations

import pytest

from diffc.output import NOTES, read_notes, write_notes


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"3", b"null", b"\xff\xfe"])
def test_damaged_notes_are_as_good_as_none(tmp_path, content):
    write_notes(tmp_path, ["a note"])
    assert read_notes(tmp_path) == ["a note"]
    (tmp_path / NOTES).write_bytes(content)
    assert read_notes(tmp_path) == []
