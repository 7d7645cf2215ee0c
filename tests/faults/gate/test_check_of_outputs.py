"""diffc check loses no result, wherever it is written."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.gate_folders import (
    FAST,
)


def test_folders_are_made_for_every_output(run, out, before, tmp_path):
    flags = []
    for name in ("markdown", "junit", "badge", "history"):
        flags += [f"--{name}", tmp_path / "new ä" / name / "x"]
    code, _, _ = run("check", out, "--baseline", before, *FAST, *flags)
    assert code == 0
    assert all((tmp_path / "new ä" / name / "x").stat().st_size for name in
               ("markdown", "junit", "badge", "history"))  # fmt: skip


@pytest.mark.parametrize("flag", ["--markdown", "--junit", "--badge", "--history"])
@pytest.mark.parametrize("place", ["below a file", "folder", "read-only"])
def test_an_output_that_cannot_be_written_is_said_at_once(
    run, out, before, tmp_path, flag, place, measured
):
    (tmp_path / "file").write_text("x")
    path = {"below a file": tmp_path / "file" / "x", "folder": tmp_path,
            "read-only": Path("/proc/x")}[place]  # fmt: skip
    code, _, err = run("check", out, "--baseline", before, *FAST, flag, path)
    reasons = {"below a file": f"'{tmp_path / 'file'}' is not a folder", "folder": "it is a folder"}
    assert code == 2 and not measured
    assert f"cannot write {flag} {path}: {reasons.get(place, '')}" in err
    assert not err.splitlines()[0].endswith(":")


def test_one_file_for_two_outputs_is_refused(run, out, before, tmp_path, measured):
    path = tmp_path / "x"
    code, _, err = run(
        "check", out, "--baseline", before, "--junit", path, "--markdown", path, *FAST
    )
    assert code == 2 and "are the same file" in err and not measured and not path.exists()


def test_a_home_folder_is_written_with_a_tilde(run, out, before, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ("--junit=~/new/j.xml", "--history=~/new/h.jsonl")
    assert run("check", "~/out", "--baseline=~/before", *flags, *FAST)[0] == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"j.xml", "h.jsonl"}


def test_nothing_is_left_where_a_check_ends_early(run, out, before, tmp_path):
    path = tmp_path / "made" / "j.xml"
    assert run("check", out, "--baseline", before, "--junit", path, "--batch", "7", *FAST)[0] == 2
    assert not path.exists()


def test_a_disk_that_fills_up_meanwhile_loses_one_file_alone(
    run, out, before, tmp_path, monkeypatch
):
    import errno

    from diffc import result_files

    whole = result_files.write_whole

    def full(path, text):
        if path.suffix == ".xml":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, text)

    monkeypatch.setattr(result_files, "write_whole", full)
    flags = ("--junit", tmp_path / "j.xml", "--badge", tmp_path / "b.svg", "--json")
    code, said, err = run("check", out, "--baseline", before, *FAST, *flags)
    assert code == 2 and f"cannot write --junit {tmp_path / 'j.xml'}: No space left" in err
    assert json.loads(said)["verdict"] == "pass"
    ET.parse(tmp_path / "b.svg")
    code, _, err = run("check", out, "--baseline", before, "--min-ssim", "0.99", *FAST, *flags)
    assert code == 1 and "cannot write --junit" in err and "REGRESSED" in err


def test_a_device_is_written_to_and_stays_one(run, out, before):
    flags = ("--junit", "/dev/null", "--badge", "/dev/null", "--markdown", "/dev/null")
    assert run("check", out, "--baseline", before, *FAST, *flags)[0] == 0
    assert Path("/dev/null").is_char_device()


def test_names_that_are_no_text(run, out, before, tmp_path):
    strange = tmp_path / "o\udcff"
    shutil.copytree(out, strange)
    code, said, _ = run(
        "check", strange, "--baseline", before, *FAST, "--json", "--junit", tmp_path / "j.xml",
        "--markdown", tmp_path / "m.md", "--history", tmp_path / "h.jsonl",
    )  # fmt: skip
    assert code == 0 and json.loads(said)["candidate"]["path"].endswith("o\ufffd")
    assert said.isascii()
    ET.parse(tmp_path / "j.xml")
