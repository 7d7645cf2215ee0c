"""Files and folders appear whole or not at all, and leave nothing beside them."""

import hashlib
import multiprocessing
import os
import subprocess
import sys

import pytest

from diffc_runtime import files


def test_a_digest_is_the_sha256_of_the_bytes(tmp_path):
    content = os.urandom(5 * 1024 * 1024)  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert files.file_digest(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_the_digest_of_several_files_depends_on_names_and_not_on_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1"), b.write_text("2")
    assert files.files_digest([a, b]) == files.files_digest([b, a])
    b.rename(tmp_path / "c")
    assert files.files_digest([a, tmp_path / "c"]) != hashlib.sha256(b"12").hexdigest()


def test_a_file_stays_as_it_was_when_its_writer_fails(tmp_path):
    files.write_text(tmp_path / "deep" / "x", "before")
    with pytest.raises(ZeroDivisionError), files.new_file(tmp_path / "deep" / "x") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "deep" / "x").read_text() == "before"
    assert os.listdir(tmp_path / "deep") == ["x"]


def test_a_flushed_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda fd: order.append((tmp_path / "x").exists()))
    with files.new_file(tmp_path / "x", flush=True) as part:
        part.write_text("all")
    assert order == [False] and (tmp_path / "x").read_text() == "all"


def test_a_fixed_temporary_name_is_written_over(tmp_path):
    left = tmp_path / ".x.part"
    left.write_text("what a killed process left")
    with files.new_file(tmp_path / "x", temporary=left) as part:
        part.write_text("new")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "new"


def _write(path, letter):
    for _ in range(30):
        files.write_text(path, letter * 100_000)


def test_two_writers_never_mix(tmp_path):
    writers = [multiprocessing.Process(target=_write, args=(tmp_path / "x", c)) for c in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "x").read_text() in ("a" * 100_000, "b" * 100_000)
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_replaces_the_old_one_with_all_that_is_in_it(tmp_path):
    for name in ("old", "new"):
        with files.new_folder(tmp_path / "goal") as folder:
            (folder / name).write_text(name)
    assert os.listdir(tmp_path) == ["goal"] and os.listdir(tmp_path / "goal") == ["new"]


def test_a_folder_stays_as_it_was_when_its_writer_fails(tmp_path):
    (tmp_path / "goal").mkdir()
    (tmp_path / "goal" / "old").touch()
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "goal") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["goal"] and os.listdir(tmp_path / "goal") == ["old"]


FORKED = """
import os, sys
from pathlib import Path
from diffc_runtime.files import remove_with

class Owner: pass

owner, folders = Owner(), [Path(sys.argv[1]) / name for name in "ab"]
for folder in folders:
    folder.mkdir()
remove_with(owner, folders[0])
remove_with(os, folders[1])
if os.fork() == 0:
    del owner
    sys.exit(0)
os.wait()
print(*(folder.is_dir() for folder in folders))
del owner
print(*(folder.is_dir() for folder in folders))
"""


def test_a_folder_goes_with_its_owner_and_not_with_a_forked_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True True", "False True"], done.stderr
    assert not any(tmp_path.iterdir()), "what is left goes when the process ends"


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "goal").mkdir()
    with pytest.raises(OSError, match="No such file"):
        files.rename_folder(tmp_path / "missing", tmp_path / "goal")
    assert os.listdir(tmp_path) == ["goal"]
