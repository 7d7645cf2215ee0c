"""A history is never damaged: neither by what stood in it before, nor by a disk that fills up."""

from __future__ import annotations

import errno
import json
import threading

import pytest

from diffc.errors import InputError
from diffc.gate import history
from diffc.gate.history import COLUMNS, append_history, read_history

ROW = {**dict.fromkeys(COLUMNS), "created": "2026-01-01", "p50_ms": 1.5, "model": "m"}
LINE = json.dumps(ROW)


@pytest.mark.parametrize("before", ["", LINE + "\n", LINE, LINE + "\r\n", LINE + "\n\n"])
def test_what_stood_there_stays_a_line_of_its_own(tmp_path, before):
    path = tmp_path / "h.jsonl"
    path.write_bytes(before.encode())
    append_history(path, [ROW, ROW])
    assert path.read_bytes().startswith(before.encode())
    found = read_history(path)
    assert len(found.rows) == 2 + bool(before) and not found.damaged


@pytest.mark.parametrize("bad", [
    "{", '{"created": 1}', "[1]", "null", "\udcff", '{"a": 1} x', "[" * 100_000,
    LINE.replace("1.5", "NaN"), LINE.replace("1.5", '"fast"'),
    LINE.replace('"2026-01-01"', "[2026]"),
])  # fmt: skip
def test_a_damaged_line_is_named_and_hides_no_other(tmp_path, bad):
    path = tmp_path / "h.jsonl"
    text = f"{LINE}\n{bad}\n{LINE}"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    append_history(path, [ROW])
    found = read_history(path)
    assert len(found.rows) == 3 and found.damaged == (2,)
    assert found.notes == [f"{path}, line 2 is damaged: it is left out"]


def test_a_byte_order_mark_hides_no_row(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode() + b"\r\n")
    found = read_history(path)
    assert len(found.rows) == 1 and not found.damaged


def test_two_rows_on_one_line_are_two_rows(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_text(LINE + LINE + "\n")
    found = read_history(path)
    assert len(found.rows) == 2 and not found.damaged


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "h.jsonl"
    path.write_text(LINE)

    class Full:
        """A file that takes the first ten bytes alone."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            return self.file.write(text[:10])

    opened = type(path).open
    monkeypatch.setattr(type(path), "open", lambda self, *a, **k: Full(opened(self, *a, **k)))
    with pytest.raises(OSError, match="No space left") as failed:
        append_history(path, [ROW])
    monkeypatch.undo()
    assert failed.value.errno == errno.ENOSPC
    assert path.read_text() == LINE


def test_several_at_once_lose_no_line(tmp_path):
    path = tmp_path / "h.jsonl"
    threads = [threading.Thread(target=append_history, args=(path, [ROW] * 20)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_history(path)
    assert len(found.rows) == 160 and not found.damaged


def test_a_folder_or_nothing_at_all_is_said(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a history"):
        read_history(tmp_path)
    with pytest.raises(InputError, match="there is no history at"):
        read_history(tmp_path / "none.jsonl")
    assert history.read_history.__doc__
